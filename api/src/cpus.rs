//! Value of `--worker-cpus`: the CPUs on which the media threads are kept.
//!
//! Parses text and compares it with the CPUs of this process. Never pins a thread: `weir_sfu` does.
//! Called by `settings.rs`.

use std::fmt;

/// List of CPUs, checked against those that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCpus {
    text: String,
    cpus: Vec<usize>,
}

impl WorkerCpus {
    /// Reads `none`, `auto` or a list such as `0,2-3`; `usable` are the CPUs of this process in
    /// ascending order.
    ///
    /// # Errors
    /// What is wrong and what to give instead.
    pub fn parse(text: &str, usable: &[usize]) -> Result<Self, String> {
        let text = text.trim();
        let mut cpus = Vec::new();
        match text {
            "none" => {}
            "auto" => cpus.extend_from_slice(usable),
            list => {
                for part in list.split(',') {
                    let (first, last) = range(part.trim()).ok_or_else(|| {
                        format!(
                            "`{part}` is not a CPU; give `auto`, `none`, or a list such as 0,2-3"
                        )
                    })?;
                    // Looked up before it is expanded: a range may be long, the list of CPUs is
                    // short.
                    if let Some(missing) = (first..=last).find(|cpu| !usable.contains(cpu)) {
                        return Err(format!(
                            "this process may not use CPU {missing}; it has {} (see taskset -p, or the \
                             cpuset of its container)",
                            ranges(usable)
                        ));
                    }
                    for cpu in first..=last {
                        if cpus.contains(&cpu) {
                            return Err(format!("CPU {cpu} is named twice; name each CPU once"));
                        }
                        cpus.push(cpu);
                    }
                }
            }
        }
        Ok(Self { text: text.to_owned(), cpus })
    }

    /// One CPU per worker, in order; empty if the kernel decides.
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }
}

impl fmt::Display for WorkerCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Bounds of `3` or `3-5`.
fn range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Text such as `0-3,8` for messages.
fn ranges(cpus: &[usize]) -> String {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match groups.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => groups.push((cpu, cpu)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    groups.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_ranges_auto_and_none_are_read() {
        let parse = |text: &str| WorkerCpus::parse(text, &[0, 1, 2, 3, 8]).unwrap();
        assert_eq!(parse("0,2-3").cpus(), [0, 2, 3]);
        assert_eq!(parse("8, 1").cpus(), [8, 1], "the order is kept");
        assert_eq!(parse("auto").cpus(), [0, 1, 2, 3, 8]);
        assert!(parse("none").cpus().is_empty());
        assert_eq!(parse(" 0,2-3 ").to_string(), "0,2-3");
    }

    #[test]
    fn a_cpu_that_is_not_usable_is_named_with_those_that_are() {
        let problem = |text: &str| WorkerCpus::parse(text, &[0, 1, 2, 3, 8]).unwrap_err();
        assert!(problem("2-4").contains("CPU 4; it has 0-3,8"), "{}", problem("2-4"));
        assert!(problem("0-18446744073709551615").contains("CPU 4;"));
        for text in ["", "x", "1,,2", "3-1", "-1", "1-", "all"] {
            assert!(problem(text).contains("is not a CPU"), "{text}");
        }
        assert!(problem("1,0-2").contains("CPU 1 is named twice"));
    }
}
