//! Citations of numbered rules: each one must name a rule of `docs/rules/`, and each rule must be
//! cited.
//!
//! A citation is the name of a page and the number of a rule (`docs/rules/README.md` lists the
//! forms). Reads every source, test and page as text, comments and strings alike. Part of
//! `tidy.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::{files, read, root};

/// Fewer citations than this mean that the reader of citations is broken.
const CITATIONS_MIN: usize = 300;

/// Extensions of the files that may cite rules.
const EXTENSIONS: &[&str] =
    &["rs", "md", "js", "mjs", "py", "html", "css", "toml", "yml", "yaml", "sh"];

/// Folders at any depth without text of ours: what tools make, and recorded inputs.
const SKIPPED_FOLDERS: &[&str] =
    &[".git", "node_modules", "corpus", "artifacts", "proptest-regressions", ".venv", "out"];

/// Sentence by which a file gives the page of its bare item numbers.
const BARE_NUMBERS: &str = "Bare item numbers are those of docs/rules/";

/// Mark after the number of a rule that is not cited and that its neighbours need.
const CONTEXT: &str = "(context)";

/// Identifier of one rule within its page: `C51`, `section 7`, `B4 item 12`, `A2.3 "name"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RuleId(String);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Citation in a text: its page, its rules, and its position.
#[derive(Debug, PartialEq, Eq)]
struct Citation {
    page: String,
    rules: Vec<RuleId>,
    span: Range<usize>,
}

#[test]
fn each_rule_reference_resolves() {
    let pages = pages();
    let names: Vec<_> = pages.keys().map(String::as_str).collect();
    let mut problems = Vec::new();
    let mut cited: BTreeSet<(String, RuleId)> = BTreeSet::new();
    let mut citations = 0;
    let rules_folder = root().join("docs/rules");
    for path in texts(&root()) {
        let relative = path.strip_prefix(root()).expect("found below the root").display();
        let source = read(&path);
        let text = without_comment_marks(&source);
        let mut found = citations_in(&text, &names);
        match path.strip_prefix(&rules_folder) {
            // The examples of the page that explains citations cite what they show.
            Ok(page) if page == Path::new("README.md") => {}
            Ok(page) => found.extend(bare_citations(&text, page_name(page), &found)),
            Err(_) if relative.to_string().ends_with("rule_references.rs") => continue,
            Err(_) => match bare_page(&source) {
                Some(page) => found.extend(bare_citations(&text, page, &found)),
                None => problems.extend(pageless(&path, &source, &found)),
            },
        }
        for citation in found {
            let line = line_of(&source, citation.span.start);
            for rule in citation.rules {
                match pages.get(&citation.page) {
                    Some(known) if known.contains_key(&rule) => {
                        if !path.starts_with(&rules_folder) {
                            citations += 1;
                            cited.insert((citation.page.clone(), rule));
                        }
                    }
                    _ => problems.push(format!(
                        "{relative}:{line}: `{} {rule}` is not in docs/rules/{0}.md",
                        citation.page
                    )),
                }
            }
        }
    }
    problems.extend(misplaced(&pages, &cited));
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(citations >= CITATIONS_MIN, "only {citations} citations found");
}

#[test]
fn citations_are_read_in_every_form() {
    let read = |text: &str| -> Vec<String> {
        citations_in(&without_comment_marks(text), &["whip-whep", "quality", "limits", "clients"])
            .into_iter()
            .flat_map(|c| c.rules.into_iter().map(move |rule| format!("{} {rule}", c.page)))
            .collect()
    };
    assert_eq!(read("(whip-whep C51)."), ["whip-whep C51"]);
    assert_eq!(
        read("whip-whep G5, E4 and E5; quality B2"),
        ["whip-whep G5", "whip-whep E4", "whip-whep E5", "quality B2"]
    );
    assert_eq!(
        read("whip-whep B1 to B3, D9"),
        ["whip-whep B1", "whip-whep B2", "whip-whep B3", "whip-whep D9"]
    );
    assert_eq!(
        read("quality B4 items 8 to 10 and 17, A3.2"),
        [
            "quality B4 item 8",
            "quality B4 item 9",
            "quality B4 item 10",
            "quality B4 item 17",
            "quality A3.2"
        ]
    );
    assert_eq!(
        read(
            "//! Source: quality A2.3 \"PLI discipline\" and \"Publisher learned\n//! at run time\"."
        ),
        ["quality A2.3 \"PLI discipline\"", "quality A2.3 \"Publisher learned at run time\""]
    );
    assert_eq!(
        read("/// (limits section 7, clients finding 10, whip-whep\n    /// H1)"),
        ["limits section 7", "clients finding 10", "whip-whep H1"]
    );
    assert_eq!(read("Quality B4 item 30."), ["quality B4 item 30"]);
    assert_eq!(read("whip-whep Z9, whip-whep C, D"), ["whip-whep Z9", "whip-whep C"]);
    assert!(read("the quality of B-frames, limits of clients, quality B2x").is_empty());
    let bare = bare_citations("('A23 to A25', 'B4 x') A1:2 H264 CE4 `D1`", "whip-whep", &[]);
    let bare: Vec<_> = bare.into_iter().map(|citation| citation.rules[0].0.clone()).collect();
    assert_eq!(bare, ["A23", "A25", "B4"]);
}

/// Rules that are not cited, and rules that are cited although they are marked as context.
fn misplaced(pages: &Pages, cited: &BTreeSet<(String, RuleId)>) -> Vec<String> {
    let mut problems = Vec::new();
    for (page, rules) in pages {
        for (rule, &Anchor { line, is_context }) in rules {
            // A heading is cited with its parts.
            let is_part =
                |of: &RuleId| of.0.strip_prefix(&rule.0).is_some_and(|rest| rest.starts_with(' '));
            let is_cited = cited.iter().any(|(of, id)| of == page && (id == rule || is_part(id)));
            match (is_cited, is_context) {
                (false, false) => problems.push(format!(
                    "docs/rules/{page}.md:{line}: nobody cites `{page} {rule}`; remove it, or \
                     mark it {CONTEXT}"
                )),
                (true, true) => problems.push(format!(
                    "docs/rules/{page}.md:{line}: `{page} {rule}` is cited; remove the mark \
                     {CONTEXT}"
                )),
                _ => {}
            }
        }
    }
    problems
}

/// Bare numbers in the comments of a file that gives no page for them.
fn pageless(path: &Path, source: &str, named: &[Citation]) -> Vec<String> {
    let relative = path.strip_prefix(root()).expect("found below the root").display();
    let comments = comments_of(path, source);
    let bare = bare_citations(&comments, "", named).into_iter().map(|bare| {
        let line = line_of(source, bare.span.start);
        let number = &bare.rules[0];
        format!(
            "{relative}:{line}: `{number}` names no page; write `whip-whep {number}` or the page it \
             is from"
        )
    });
    bare.collect()
}

/// Position of a rule, and whether it may have no citation.
struct Anchor {
    line: usize,
    is_context: bool,
}

type Pages = BTreeMap<String, BTreeMap<RuleId, Anchor>>;

/// Rules of each page of `docs/rules/`.
fn pages() -> Pages {
    let mut pages = BTreeMap::new();
    for path in files(&root().join("docs/rules"), "md") {
        let page = page_name(&path).to_owned();
        if page == "README" {
            continue;
        }
        let text = read(&path);
        let mut rules = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let Some((rule, rest)) = anchor(line) else { continue };
            let is_context = rest.trim_start().starts_with(CONTEXT);
            let anchor = Anchor { line: index + 1, is_context };
            let twice = rules.insert(rule.clone(), anchor).is_some();
            assert!(!twice, "docs/rules/{page}.md:{}: `{rule}` stands there twice", index + 1);
        }
        pages.insert(page, rules);
    }
    pages
}

/// Rule that a line begins (`- **C51** text` or `### A2.3`), and the rest of the line.
fn anchor(line: &str) -> Option<(RuleId, &str)> {
    if let Some(bold) = line.trim_start().strip_prefix("- **") {
        let (number, rest) = bold.split_once("**")?;
        let (rule, len) = one_rule(number)?;
        return (len == number.len()).then_some((rule, rest));
    }
    let title = line.strip_prefix("##")?.trim_start_matches('#').trim();
    let (rule, len) = one_rule(title)?;
    (len == title.len()).then_some((rule, ""))
}

/// Rule at the beginning of a text, and its length in bytes.
fn one_rule(text: &str) -> Option<(RuleId, usize)> {
    let mut reader = Reader { text, at: 0 };
    let rules = reader.rule()?;
    (rules.len() == 1).then(|| (rules[0].clone(), reader.at))
}

/// Citations that name their page.
fn citations_in(text: &str, pages: &[&str]) -> Vec<Citation> {
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for page in pages {
        for (start, _) in lower.match_indices(page) {
            let end = start + page.len();
            let boundary = !text[..start].ends_with(|c: char| is_word(c) || c == '/');
            let gap = text[end..].len() - text[end..].trim_start().len();
            if !boundary || gap == 0 {
                continue;
            }
            let mut reader = Reader { text, at: end + gap };
            if let Some(rules) = reader.list().or_else(|| meant_rule(page, reader.rest())) {
                found.push(Citation { page: (*page).to_owned(), rules, span: start..reader.at });
            }
        }
    }
    found.sort_by_key(|citation| citation.span.start);
    found
}

/// Word in the position of a rule. A page whose name has a hyphen is no English word, so that a
/// rule is meant.
fn meant_rule(page: &str, text: &str) -> Option<Vec<RuleId>> {
    let word = text.split(|c: char| !is_word(c)).next()?;
    let is_meant = page.contains('-') && word.starts_with(|c: char| c.is_ascii_uppercase());
    is_meant.then(|| vec![RuleId(word.to_owned())])
}

/// Numbers such as `C51` that are part of no citation in `named`.
fn bare_citations(text: &str, page: &str, named: &[Citation]) -> Vec<Citation> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices(|c: char| ('A'..='H').contains(&c)) {
        let opens = |c: char| is_word(c) || "-:#$.`".contains(c);
        if text[..start].ends_with(opens) || named.iter().any(|c| c.span.contains(&start)) {
            continue;
        }
        let mut reader = Reader { text, at: start };
        let Some(number) = reader.number() else { continue };
        let joined = text[reader.at..].strip_prefix([':', '`', '.']);
        if joined.is_some_and(|rest| rest.starts_with(|c: char| c.is_alphanumeric())) {
            continue;
        }
        found.push(Citation {
            page: page.to_owned(),
            rules: vec![RuleId(number)],
            span: start..reader.at,
        });
    }
    found
}

/// Reader of rules from one place in a text on.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// One rule, and further ones joined to it by commas, "and", "or" and "to".
    fn list(&mut self) -> Option<Vec<RuleId>> {
        let mut rules = self.rule()?;
        loop {
            let before = self.at;
            let Some(joint) = self.joint() else { return Some(rules) };
            let Some(next) = self.rule() else {
                self.at = before;
                return Some(rules);
            };
            if joint == "to" {
                rules.extend(between(rules.last(), next.first()));
            }
            rules.extend(next);
        }
    }

    /// One identifier, or several of one rule (`B4 items 8 to 11`, `A2.3 "one" and "two"`).
    fn rule(&mut self) -> Option<Vec<RuleId>> {
        for word in ["section", "finding", "design"] {
            let before = self.at;
            if self.word(word)
                && self.space()
                && let Some(number) = self.digits()
            {
                return Some(vec![RuleId(format!("{word} {number}"))]);
            }
            self.at = before;
        }
        let number = self.number()?;
        let before = self.at;
        if self.space() {
            if (self.word("items") || self.word("item"))
                && self.space()
                && let Some(items) = self.items(&number)
            {
                return Some(items);
            }
            self.at = before;
            if let Some(parts) = self.parts(&number) {
                return Some(parts);
            }
        }
        self.at = before;
        Some(vec![RuleId(number)])
    }

    fn items(&mut self, number: &str) -> Option<Vec<RuleId>> {
        let item = |n: u32| RuleId(format!("{number} item {n}"));
        let mut last = self.digits()?;
        let mut items = vec![item(last)];
        loop {
            let before = self.at;
            let next = self.joint().and_then(|joint| Some((joint, self.digits()?)));
            let Some((joint, next)) = next else {
                self.at = before;
                return Some(items);
            };
            items.extend((joint == "to").then(|| (last + 1..next).map(item)).into_iter().flatten());
            items.push(item(next));
            last = next;
        }
    }

    fn parts(&mut self, number: &str) -> Option<Vec<RuleId>> {
        let mut parts = Vec::new();
        self.space();
        loop {
            let before = self.at;
            if !parts.is_empty() && self.joint().is_none() {
                return Some(parts);
            }
            let name = self.rest().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            let Some((name, _)) = name.filter(|(name, _)| !name.is_empty()) else {
                self.at = before;
                return (!parts.is_empty()).then_some(parts);
            };
            self.at += name.len() + 2;
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            parts.push(RuleId(format!("{number} \"{name}\"")));
        }
    }

    /// Letter from A to H, one or two digits, and a digit behind a dot.
    fn number(&mut self) -> Option<String> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        if !bytes.first()?.is_ascii() || !('A'..='H').contains(&char::from(bytes[0])) {
            return None;
        }
        let digits = bytes[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut len = 1 + digits;
        if bytes.get(len) == Some(&b'.') && bytes.get(len + 1).is_some_and(u8::is_ascii_digit) {
            len += 2;
        }
        let ends = !rest[len..].starts_with(|c: char| is_word(c) || c == '-');
        ((1..=2).contains(&digits) && ends).then(|| {
            self.at += len;
            rest[..len].to_owned()
        })
    }

    fn digits(&mut self) -> Option<u32> {
        let rest = self.rest();
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest[..len].parse().ok()?;
        self.at += len;
        Some(number)
    }

    fn joint(&mut self) -> Option<&'static str> {
        let before = self.at;
        let comma = self.rest().starts_with(',');
        self.at += usize::from(comma);
        if self.space() {
            for joint in ["and", "or", "to"] {
                let word = self.at;
                if self.word(joint) && self.space() {
                    return Some(joint);
                }
                self.at = word;
            }
            if comma {
                return Some(",");
            }
        }
        self.at = before;
        None
    }

    fn word(&mut self, word: &str) -> bool {
        let rest = self.rest().strip_prefix(word);
        let found = rest.is_some_and(|rest| !rest.starts_with(is_word));
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn space(&mut self) -> bool {
        let rest = self.rest();
        let len = rest.len() - rest.trim_start().len();
        self.at += len;
        len > 0
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
}

/// Rules strictly between two of the same letter.
fn between(first: Option<&RuleId>, last: Option<&RuleId>) -> Vec<RuleId> {
    let split = |rule: Option<&RuleId>| {
        let (letter, number) = rule?.0.split_at_checked(1)?;
        Some((letter.to_owned(), number.parse::<u32>().ok()?))
    };
    match (split(first), split(last)) {
        (Some((letter, from)), Some((other, to))) if letter == other => {
            (from + 1..to).map(|number| RuleId(format!("{letter}{number}"))).collect()
        }
        _ => Vec::new(),
    }
}

/// Page that a file gives for its bare numbers.
fn bare_page(source: &str) -> Option<&str> {
    source.split_once(BARE_NUMBERS)?.1.split_once(".md").map(|(page, _)| page)
}

fn page_name(path: &Path) -> &str {
    path.file_stem().and_then(|name| name.to_str()).expect("pages have UTF-8 names")
}

/// Text with blanks for the comment marks at the beginnings of its lines, so that a citation may
/// continue in the next line. Positions stay the same.
fn without_comment_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    for line in source.split_inclusive('\n') {
        let code = line.trim_start();
        let mark = ["///", "//!", "//", "* ", "# "].into_iter().find(|mark| code.starts_with(mark));
        let len = line.len() - code.len() + mark.map_or(0, str::len);
        text.extend(std::iter::repeat_n(' ', len));
        text.push_str(&line[len..]);
    }
    text
}

/// Line comments of a Rust or JavaScript file, with blanks for everything else. Positions stay the
/// same.
fn comments_of(path: &Path, source: &str) -> String {
    let has_comments =
        ["rs", "js", "mjs"].map(Some).contains(&path.extension().and_then(|e| e.to_str()));
    let mut text = String::with_capacity(source.len());
    for line in source.split_inclusive('\n') {
        let comment =
            line.match_indices("//").map(|(at, _)| at).find(|&at| !line[..at].ends_with(':'));
        let start = comment.filter(|_| has_comments).unwrap_or(line.len());
        text.extend(std::iter::repeat_n(' ', start));
        text.push_str(&line[start..]);
    }
    text
}

fn line_of(source: &str, at: usize) -> usize {
    source[..at].matches('\n').count() + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Texts of the repository below `dir`.
fn texts(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
        let path = entry.expect("readable directory").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !SKIPPED_FOLDERS.contains(&name) && !name.starts_with("target") {
                found.extend(texts(&path));
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e))
        {
            found.push(path);
        }
    }
    found.sort();
    found
}
