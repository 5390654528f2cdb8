//! The known name that a misspelt one is nearest to.
//!
//! Pure. Called where a name that nobody knows is reported: `log.rs`, `cli.rs`, `config.rs`.

/// The known name that `name` was probably meant to be: at most one letter in three differs. Case,
/// and `_` in the place of `-`, do not count.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(name);
    let by_distance = known.map(|known| (distance(&wanted, &plain(known)), known));
    let (letters, nearest) = by_distance.min_by_key(|(letters, _)| *letters)?;
    (letters <= (wanted.len() / 3).min(3)).then_some(nearest)
}

/// Number of letters to insert, remove or replace to make `b` of `a` (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_recognized_and_another_word_is_not() {
        let keys = ["http", "media-port", "admin-http", "log", "takeover"];
        let nearest = |name| nearest(name, keys.into_iter());
        for (name, meant) in [
            ("htpp", "http"),
            ("media_port", "media-port"),
            ("MEDIAPORT", "media-port"),
            ("takeove", "takeover"),
        ] {
            assert_eq!(nearest(name), Some(meant));
        }
        for name in ["foo", "", "viewer-wait", "l"] {
            assert_eq!(nearest(name), None, "{name}");
        }
    }
}
