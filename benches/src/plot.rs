//! Plots: groups of horizontal bars as SVG, for the pages in `docs/`.
//!
//! No library: rectangles and text. The colours are distinct for colour-blind readers and on paper.

use std::fmt::Write;

/// A chart: one group of bars per row, one bar per series.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Title of the chart.
    pub title: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// Names of the bars of a row.
    pub series: Vec<String>,
    /// Label and one value per series.
    pub rows: Vec<(String, Vec<f64>)>,
}

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 330.0;
const VALUE_WIDTH: f64 = 60.0;
const BAR_HEIGHT: f64 = 14.0;
const ROW_GAP: f64 = 8.0;
const HEAD_HEIGHT: f64 = 56.0;

/// Okabe and Ito's palette.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];

impl Chart {
    /// The whole image.
    pub fn svg(&self) -> String {
        let row_height = BAR_HEIGHT * self.series.len() as f64 + ROW_GAP;
        let height = HEAD_HEIGHT + row_height * self.rows.len() as f64 + ROW_GAP;
        let all = self.rows.iter().flat_map(|(_, values)| values).copied();
        let scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / all.fold(f64::MIN_POSITIVE, f64::max);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, 8.0, 20.0, "start", &format!("{} ({})", self.title, self.unit), true);
        for (n, name) in self.series.iter().enumerate() {
            let x = LABEL_WIDTH + 150.0 * n as f64;
            bar(&mut svg, x, 30.0, 12.0, colour(n));
            text(&mut svg, x + 18.0, 41.0, "start", name, false);
        }
        for (n, (label, values)) in self.rows.iter().enumerate() {
            let top = HEAD_HEIGHT + row_height * n as f64;
            let middle = top + (row_height - ROW_GAP) / 2.0 + 4.0;
            text(&mut svg, LABEL_WIDTH - 8.0, middle, "end", label, false);
            for (n, value) in values.iter().enumerate() {
                let y = top + BAR_HEIGHT * n as f64;
                bar(&mut svg, LABEL_WIDTH, y, value * scale, colour(n));
                let digits = if *value < 10.0 { 1 } else { 0 };
                let (x, y) = (LABEL_WIDTH + value * scale + 5.0, y + 11.0);
                text(&mut svg, x, y, "start", &format!("{value:.digits$}"), false);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn colour(series: usize) -> &'static str {
    COLOURS.get(series % COLOURS.len()).copied().unwrap_or("#000000")
}

fn bar(svg: &mut String, x: f64, y: f64, width: f64, fill: &str) {
    let height = BAR_HEIGHT - 2.0;
    _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str, bold: bool) {
    let weight = if bold { " font-weight=\"bold\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\"{weight}>{text}</text>"
    );
}
