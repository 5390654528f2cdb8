//! Line plots as SVG: axes with round numbers, a shaded span, a label at the end of each line.
//!
//! Colours come from the page's style sheet by class, so that a plot fits the light and the dark
//! page. Called by `html`.

use std::fmt::Write;

/// Size of the drawing in SVG user units. The page scales it.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 230.0;

/// Margins around the plot area in user units.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 78.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 30.0;

/// Approximate number of ticks on each axis.
const TICKS_Y: f64 = 4.0;
const TICKS_X: f64 = 6.0;

/// Minimum distance between two labels, in user units.
const LABEL_GAP: f64 = 13.0;

/// One line of a plot.
pub(crate) struct Series {
    /// Label at the end of the line.
    pub(crate) name: &'static str,
    /// Class in the style sheet: `a` to `d`.
    pub(crate) class: &'static str,
    /// Points with increasing x. `None` interrupts the line.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A plot of lines over one x axis.
pub(crate) struct Plot {
    /// Unit of x, shown at the end of the axis.
    pub(crate) x_unit: &'static str,
    /// Unit of y, shown at the top of the axis.
    pub(crate) y_unit: &'static str,
    /// Range of x that is shaded.
    pub(crate) shaded: Option<(f64, f64)>,
    /// The lines.
    pub(crate) series: Vec<Series>,
}

impl Plot {
    /// The plot as SVG; `None` if there is nothing to draw.
    pub(crate) fn svg(&self, label: &str) -> Option<String> {
        let known = || self.series.iter().flat_map(|series| &series.points);
        if !known().any(|(_, y)| y.is_some()) {
            return None;
        }
        let (x_min, x_max) = (0.0, known().map(|(x, _)| *x).fold(0.0, f64::max));
        let y_max = known().filter_map(|(_, y)| *y).fold(0.0, f64::max);
        let y_max = if y_max > 0.0 { y_max } else { 1.0 };
        let x_span = (x_max - x_min).max(1e-9);
        let step_y = round_step(y_max / TICKS_Y);
        let top = step_y * (y_max / step_y).ceil().max(1.0);
        let px = |x: f64| LEFT + (x - x_min) / x_span * (WIDTH - LEFT - RIGHT);
        let py = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(label)
        );
        if let Some((from, to)) = self.shaded {
            let (from, to) = (px(from.clamp(x_min, x_max)), px(to.clamp(x_min, x_max)));
            let height = HEIGHT - TOP - BOTTOM;
            rect(&mut svg, "window", from, TOP, to - from, height);
        }
        let mut y = 0.0;
        while y <= top * 1.001 {
            line(
                &mut svg,
                if y == 0.0 { "axis" } else { "grid" },
                LEFT,
                py(y),
                WIDTH - RIGHT,
                py(y),
            );
            text(&mut svg, "tick end", LEFT - 7.0, py(y) + 4.0, &number(y));
            y += step_y;
        }
        let step_x = round_step(x_span / TICKS_X);
        let mut x = (x_min / step_x).ceil() * step_x;
        while x <= x_max * 1.0001 {
            line(&mut svg, "axis", px(x), HEIGHT - BOTTOM, px(x), HEIGHT - BOTTOM + 4.0);
            text(&mut svg, "tick mid", px(x), HEIGHT - BOTTOM + 17.0, &number(x));
            x += step_x;
        }
        text(&mut svg, "unit", WIDTH - RIGHT + 7.0, HEIGHT - BOTTOM + 17.0, self.x_unit);
        text(&mut svg, "unit", 4.0, 11.0, self.y_unit);

        let mut ends: Vec<(f64, &Series)> = Vec::new();
        for series in &self.series {
            let mut path = String::new();
            let mut drawing = false;
            for (x, y) in &series.points {
                match y {
                    Some(y) => {
                        let command = if drawing { 'L' } else { 'M' };
                        let _ = write!(path, "{command}{:.1} {:.1}", px(*x), py(*y));
                        drawing = true;
                    }
                    None => drawing = false,
                }
            }
            let _ = write!(
                svg,
                "<path class=\"line {}\" d=\"{path}\"><title>{}</title></path>",
                series.class,
                escape(series.name)
            );
            if let Some((_, Some(last))) = series.points.iter().rfind(|(_, y)| y.is_some()) {
                ends.push((py(*last), series));
            }
        }
        for (y, series) in spread(ends) {
            let class = format!("name {}", series.class);
            text(&mut svg, &class, WIDTH - RIGHT + 7.0, y + 4.0, series.name);
        }
        svg.push_str("</svg>");
        Some(svg)
    }
}

/// Moves labels apart, upwards from the lowest one, but not above the plot area.
fn spread(mut ends: Vec<(f64, &Series)>) -> Vec<(f64, &Series)> {
    ends.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut limit = f64::MAX;
    for (y, _) in &mut ends {
        *y = y.min(limit);
        limit = *y - LABEL_GAP;
    }
    let mut limit = TOP;
    for (y, _) in ends.iter_mut().rev() {
        *y = y.max(limit);
        limit = *y + LABEL_GAP;
    }
    ends
}

/// The smallest step of 1, 2 or 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * power)
}

/// A number in a short form: 1.5, 250, 12k, 3M.
pub(crate) fn number(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// Text with the special characters of HTML escaped.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn line(svg: &mut String, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn rect(svg: &mut String, class: &str, x: f64, y: f64, width: f64, height: f64) {
    let _ = write!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
    );
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let _ =
        write!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_short_round_numbers() {
        for (least, step) in [(0.24, 0.5), (0.2, 0.2), (3.0, 5.0), (51.0, 100.0), (100.0, 100.0)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least} {}", round_step(least));
        }
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (100.0, "100"),
            (1500.0, "1500"),
            (20_000.0, "20k"),
            (2.5e6, "2.5M"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn line_stays_within_the_drawing_and_gaps_interrupt_it() {
        let points = vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(97.0)), (3.0, Some(0.0))];
        let series = vec![Series { name: "p50 <", class: "a", points }];
        let plot = Plot { x_unit: "s", y_unit: "ms", shaded: Some((1.0, 9.0)), series };
        let svg = plot.svg("a & b").expect("has points");
        assert!(svg.contains("aria-label=\"a &amp; b\"") && svg.contains("p50 &lt;"));
        let path = svg.split(" d=\"").nth(1).and_then(|rest| rest.split('"').next());
        let path = path.expect("is a path");
        assert_eq!(path.matches('M').count(), 2, "interrupted once: {path}");
        let numbers = path.split(['M', 'L', ' ']).filter(|n| !n.is_empty());
        assert!(
            numbers
                .map(|n| n.parse::<f64>().expect("a number"))
                .all(|n| (0.0..=WIDTH).contains(&n))
        );
    }

    #[test]
    fn labels_do_not_overlap_and_an_empty_plot_is_not_drawn() {
        let line = || Series { name: "x", class: "a", points: vec![] };
        let (a, b, c) = (line(), line(), line());
        let ends = spread(vec![(100.0, &a), (99.0, &b), (20.0, &c)]);
        let ys: Vec<f64> = ends.iter().map(|(y, _)| *y).collect();
        assert_eq!(ys, [100.0, 87.0, TOP]);
        let top: Vec<f64> = spread(vec![(TOP, &a), (TOP, &b)]).iter().map(|(y, _)| *y).collect();
        assert_eq!(top, [TOP + LABEL_GAP, TOP]);
        let empty = Plot { x_unit: "", y_unit: "", shaded: None, series: vec![line()] };
        assert_eq!(empty.svg("nothing"), None);
    }
}
