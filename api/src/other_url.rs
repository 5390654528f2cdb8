//! URLs of other servers' forms, and the URL of this server that is meant.
//!
//! People keep the URL of the server that they used before. Pure. Called by `app.rs` for a path
//! that has no route, so that its 404 says where to go.

use weir_sfu::ids::{Role, StreamName};

use crate::path;

/// Endpoint that a path of another server's form means: its role, and the stream if it names one.
#[derive(Debug, PartialEq, Eq)]
pub struct Meant {
    role: Role,
    stream: Option<StreamName>,
}

impl Meant {
    /// Reads a path and its query: `/demo/whip` (MediaMTX), `/rtc/v1/whip/?app=live&stream=demo`
    /// (SRS), `/index/api/whip?app=live&stream=demo` (ZLMediaKit), `/api/whip` (Broadcast Box),
    /// `/whip?stream=demo`.
    pub fn of(path: &str, query: Option<&str>) -> Option<Self> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let role_of = |segment: &str| match segment {
            "whip" => Some(Role::Publisher),
            "whep" | "whip-play" => Some(Role::Subscriber),
            _ => None,
        };
        let (at, role) =
            segments.iter().enumerate().find_map(|(at, segment)| Some((at, role_of(segment)?)))?;
        let mut pairs = query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        let by_query = pairs.find_map(|(name, value)| (name == "stream").then_some(value));
        let before = at.checked_sub(1).and_then(|before| segments.get(before));
        // Not a name: `/rtc/v1/whip`, `/index/api/whip`, `/api/whip`.
        let before = before.copied().filter(|name| !matches!(*name, "v1" | "api"));
        let named = by_query.or(before).or(segments.get(at + 1).copied());
        Some(Self { role, stream: named.and_then(|name| StreamName::new(name).ok()) })
    }

    /// Text for the 404, with the right URL below `public_url`, or as a path.
    pub fn advice(&self, public_url: Option<&str>) -> String {
        let (base, prefix) = (public_url.unwrap_or(""), path::prefix(self.role));
        let verb = match self.role {
            Role::Publisher => "publish",
            Role::Subscriber => "watch",
        };
        match &self.stream {
            Some(stream) => format!(
                "this server has nothing at this path; to {verb} the stream {stream}, POST the \
                 offer to {base}/{prefix}/{stream}"
            ),
            None => format!(
                "this server has nothing at this path; to {verb} a stream, POST the offer to \
                 {base}/{prefix}/NAME, where NAME is its name, such as {base}/{prefix}/demo"
            ),
        }
    }
}

/// Text for the 404 of a path that means nothing, for the person who typed it.
pub fn advice_for_people(path: &str) -> String {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let (first, second) = (segments.next().unwrap_or(""), segments.next());
    match (first, second) {
        ("watch" | "publish", None) => {
            format!("this page needs the name of a stream: /{first}/NAME, such as /{first}/demo")
        }
        ("watch" | "publish", Some(_)) => format!(
            "a stream name is one segment of the path, without a `/`: /{first}/NAME, such as \
             /{first}/demo"
        ),
        (name, None) if StreamName::new(name).is_ok() => format!(
            "this server has nothing at this path; if {name} is the name of a stream, watch it at \
             /watch/{name}"
        ),
        _ => "this server has nothing at this path".to_owned(),
    }
}

/// Text for an offer to `/whip/live/demo`, a habit from RTMP; none for another path.
pub fn advice_on_slashes(path: &str) -> Option<String> {
    let mut segments = path.split('/').skip(1);
    let role = segments.next().filter(|role| matches!(*role, "whip" | "whep"))?;
    let names: Vec<&str> = segments.filter(|segment| !segment.is_empty()).collect();
    let joined = StreamName::new(&names.join("-")).ok().filter(|_| names.len() > 1);
    let example = joined.filter(|name| name.as_str().len() <= EXAMPLE_MAX);
    let example = example.as_ref().map_or("live-demo", StreamName::as_str);
    (names.len() > 1).then(|| {
        format!(
            "a stream name has no `/`, and POST takes an offer at /{role}/NAME alone: POST it for \
             example to /{role}/{example}"
        )
    })
}

/// Longest name that is made of a path as an example: the last segment may be a session's secret,
/// which is longer and is not repeated.
const EXAMPLE_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_other_servers_are_understood() {
        let meant = |url: &str| {
            let (path, query) =
                url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
            Meant::of(path, query).map(|meant| meant.advice(None))
        };
        for (url, right) in [
            ("/demo/whip", "/whip/demo"),
            ("/demo/whep", "/whep/demo"),
            ("/live/demo/whip/", "/whip/demo"),
            ("/rtc/v1/whip/?app=live&stream=demo", "/whip/demo"),
            ("/rtc/v1/whip?app=live&stream=demo", "/whip/demo"),
            ("/rtc/v1/whip-play/?app=live&stream=demo", "/whep/demo"),
            ("/rtc/v1/whep/?app=live&stream=demo", "/whep/demo"),
            ("/index/api/whip?app=live&stream=demo", "/whip/demo"),
            ("/whip?stream=demo", "/whip/demo"),
            ("/api/whip/demo", "/whip/demo"),
            ("/api/whep", "/whep/NAME"),
            ("/whip/", "/whip/NAME"),
            ("/whep", "/whep/NAME"),
            ("/rtc/v1/whip/?stream=%00", "/whip/NAME"),
        ] {
            let advice = meant(url).unwrap_or_else(|| panic!("{url}"));
            assert!(advice.contains(&format!("offer to {right}")), "{url}: {advice}");
        }
        for url in ["/", "/whipped/demo", "/demo", "/favicon.ico"] {
            assert_eq!(meant(url), None, "{url}");
        }
    }

    #[test]
    fn a_person_is_told_the_form_of_the_address() {
        for (path, told) in [
            ("/watch", "/watch/NAME, such as /watch/demo"),
            ("/publish/", "/publish/NAME"),
            ("/watch/live/demo", "without a `/`"),
            ("/demo", "watch it at /watch/demo"),
            ("/a/b", "nothing at this path"),
            ("/a%20b", "nothing at this path"),
        ] {
            let text = advice_for_people(path);
            assert!(text.contains(told), "{path}: {text}");
        }
    }

    #[test]
    fn a_name_with_a_slash_is_told_so_and_a_secret_is_not_repeated() {
        let text = advice_on_slashes("/whip/live/demo").unwrap();
        assert!(text.contains("no `/`") && text.contains("to /whip/live-demo"), "{text}");
        assert!(advice_on_slashes("/whep/a/b/c/").unwrap().contains("/whep/a-b-c"));
        let secret = "A".repeat(32);
        let text = advice_on_slashes(&format!("/whip/demo/{secret}")).unwrap();
        assert!(!text.contains(&secret), "{text}");
        for path in ["/whip/demo", "/whip/demo/", "/whip", "/live/whip", "/"] {
            assert_eq!(advice_on_slashes(path), None, "{path}");
        }
    }

    #[test]
    fn advice_is_below_the_public_url() {
        let meant = Meant::of("/demo/whip", None).unwrap();
        let advice = meant.advice(Some("https://live.example.org"));
        assert!(advice.contains("https://live.example.org/whip/demo"), "{advice}");
    }
}
