//! Every setting of the server, declared once.
//!
//! A declaration gives the flag, the `WEIR_*` variable, the key of the file, the default, the help,
//! the printed value and what a reload does; the table in README.md is compared with it by a test.
//! The functions at the foot read one value each. Rules between settings are in `config.rs`, the
//! macro is in `setting.rs`.

use std::net::SocketAddr;

use axum::http::Uri;
use weir_sfu::config::{Takeover, WORKERS_MAX};
use weir_sfu::net::{StartMode, UnknownStartMode, usable_cpus};

use crate::advertise::Advertise;
use crate::cpus::WorkerCpus;
use crate::log::LogFormat;
use crate::origin::CorsOrigins;
use crate::setting::{ConfigError, Given, List, Printed, Setting, settings};
use crate::trusted_proxies::TrustedProxies;

settings! {
    /// Address of WHIP, WHEP and the pages; port 0 takes a free one.
    http: String => SocketAddr {
        key "http", env "WEIR_HTTP", value "ADDR:PORT", heading "Addresses",
        default "127.0.0.1:8080", restart, read |text| listener(&text)
    }
    /// UDP port of all media; 0 takes a free one.
    media_port: u16 => u16 {
        key "media-port", env "WEIR_MEDIA_PORT", value "PORT", heading "Addresses",
        default "8189", restart, read Ok
    }
    /// Addresses that clients send media to, the best first, or `auto` for those of this machine.
    /// Needed behind NAT and in a container: give the address that clients can reach. `auto` follows
    /// the machine's addresses when they change.
    advertise: List => Option<Advertise> {
        key "advertise", alias "public-ip" "WEIR_PUBLIC_IP", env "WEIR_ADVERTISE", value "auto|ADDR[:PORT],…",
        heading "Addresses", unset "auto", reload,
        read |given, _| given.map(|list| Advertise::parse(&list.0)).transpose()
    }
    /// Base of the session URLs in answers, such as `https://live.example.org`. Needed when clients
    /// reach the server by another name or through a proxy; without it answers hold a path.
    public_url: String => Option<String> {
        key "public-url", env "WEIR_PUBLIC_URL", value "URL", heading "Addresses",
        unset "not set", reload, read |given, _| given.map(|text| public_url(&text)).transpose()
    }

    /// Serve everyone who can reach the server, without authentication. Needed for `--http` or
    /// `--admin-http` off loopback, and behind a reverse proxy.
    insecure_open: bool => bool {
        key "insecure-open", env "WEIR_INSECURE_OPEN", value "BOOL", heading "Access",
        default "false", restart, read Ok
    }
    /// Second address for `/metrics` and `/api/v1`. Without it they are served at `--http` if that
    /// is a loopback address, else nowhere.
    admin_http: String => Option<SocketAddr> {
        key "admin-http", env "WEIR_ADMIN_HTTP", value "ADDR:PORT", heading "Access",
        unset "not set", restart, read |given, _| given.map(|text| listener(&text)).transpose()
    }
    /// Origins of other web sites whose pages may publish, watch and use the API, such as
    /// `https://example.org`; `*` is every page. Without it these are pages of this server and of this
    /// machine alone. Programs are not concerned, nor is `/watch` in a frame.
    cors_origin: List => CorsOrigins {
        key "cors-origin", env "WEIR_CORS_ORIGIN", value "ORIGIN,…", heading "Access",
        unset "not set", reload,
        read |given, _| given.map_or(Ok(CorsOrigins::Own), |list| CorsOrigins::parse(&list.0))
    }
    /// Reverse proxies whose `X-Forwarded-For` or `Forwarded` (RFC 7239) names the client, for all
    /// limits per client. Without it all clients of a proxy count as one, and those of a proxy on
    /// this machine as none. Addresses or prefixes, such as `127.0.0.1,10.0.0.0/8`; may be repeated.
    trusted_proxy: List => TrustedProxies {
        key "trusted-proxy", env "WEIR_TRUSTED_PROXY", value "ADDR[/BITS],…", heading "Access",
        unset "not set", reload,
        read |given, _| given.map_or_else(|| Ok(TrustedProxies::default()), |list| TrustedProxies::parse(&list.0))
    }
    /// Sessions per second that one client address (IPv6: /64) may ask for, with a burst of four
    /// seconds' worth. 0 is no limit; loopback has none.
    post_rate: u32 => u32 {
        key "post-rate", env "WEIR_POST_RATE", value "N", heading "Access",
        default "50", reload, read Ok
    }
    /// Demand `If-Match` on every PATCH, as RFC 9725 does, and offers to the letter of RFC 8866. Known
    /// clients fall short of both.
    strict: bool => bool {
        key "strict", env "WEIR_STRICT", value "BOOL", heading "Access",
        default "false", reload, read Ok
    }
    /// What becomes of a new publisher of a live stream: `always` replaces the one before, unless
    /// the stream changed hands three times within 30 s; `reject` refuses the new one, with 409. One
    /// that died without a goodbye holds the stream until nothing came from it for 30 s.
    takeover: String => Takeover {
        key "takeover", env "WEIR_TAKEOVER", value "always|reject", heading "Access",
        default "always", restart, read |text| takeover(&text)
    }

    /// Cached media that a viewer is sent at most, to show a picture at once: `fast-forward` (all
    /// since the last keyframe, where that is little), `poster` (that keyframe alone, until the
    /// next one comes) or `wait` (nothing). A viewer may ask for another with `?start=`.
    start: String => StartMode {
        key "start", env "WEIR_START", value "MODE", heading "Running",
        default "fast-forward", reload, read |text| start(&text)
    }
    /// Seconds that viewers wait for a publisher, before the first and after the last; then their
    /// sessions are closed.
    viewer_wait: u64 => u64 {
        key "viewer-wait", env "WEIR_VIEWER_WAIT", value "SECONDS", heading "Running",
        default "600", restart, read viewer_wait
    }
    /// Megabits per second that one publisher may send, all tracks and layers together. What it
    /// saved up in the last 5 seconds may come at once; packets above that are dropped.
    publisher_bitrate: u32 => u32 {
        key "publisher-bitrate", env "WEIR_PUBLISHER_BITRATE", value "MBITS", heading "Running",
        default "100", restart, read publisher_bitrate
    }
    /// Packets per second that one publisher may send, in the same way.
    publisher_packets: u32 => u32 {
        key "publisher-packets", env "WEIR_PUBLISHER_PACKETS", value "N", heading "Running",
        default "16000", restart, read publisher_packets
    }
    /// Media threads.
    workers: usize => usize {
        key "workers", env "WEIR_WORKERS", value "N", heading "Running",
        unset "one per CPU of `--worker-cpus`, else of this process", restart, read workers
    }
    /// CPUs on which the media threads are kept, one each and in this order: a list such as
    /// `0,2-3`, `auto` for all that this process may use, or `none` to leave it to the kernel.
    worker_cpus: String => WorkerCpus {
        key "worker-cpus", env "WEIR_WORKER_CPUS", value "none|auto|LIST", heading "Running",
        default "none", restart, read |text| WorkerCpus::parse(&text, &usable_cpus())
    }
    /// Log filter, such as `debug` or `weir_sfu=debug,info`; the variable `RUST_LOG` sets it too.
    log: String => String {
        key "log", env "WEIR_LOG", value "FILTER", heading "Running",
        default "info", reload, read log_filter
    }
    /// Form of the log lines on stderr: `text` or `json`.
    log_format: LogFormat => LogFormat {
        key "log-format", env "WEIR_LOG_FORMAT", value "FORMAT", heading "Running",
        default "text", restart, read Ok
    }
}

fn listener(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.split_once(':') {
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        format!("`{text}` is not ADDR:PORT; give for example 127.0.0.1:8080 or [::]:8080")
    })
}

/// An absolute http or https URL without a query, because session paths are appended to it.
fn public_url(text: &str) -> Result<String, String> {
    let plain =
        text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['?', '#', ';', ',', '\'']);
    let uri: Option<Uri> = text.parse().ok().filter(|_| plain);
    let usable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    if !uri.as_ref().is_some_and(usable) {
        return Err(format!(
            "`{text}` is not an http or https URL without a query; give for example \
             https://live.example.org"
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn start(text: &str) -> Result<StartMode, String> {
    text.parse().map_err(|problem: UnknownStartMode| format!("is `{text}`; {problem}"))
}

fn takeover(text: &str) -> Result<Takeover, String> {
    let found = Takeover::ALL.into_iter().find(|policy| policy.label() == text);
    found.ok_or_else(|| {
        format!("is `{text}`; must be {}", Takeover::ALL.map(Takeover::label).join(" or "))
    })
}

fn workers(given: Option<usize>, settings: &Settings) -> Result<usize, String> {
    match given {
        Some(n) if !(1..=WORKERS_MAX).contains(&n) => {
            Err(format!("is {n}; give 1 to {WORKERS_MAX}"))
        }
        Some(n) => Ok(n),
        None => {
            // A list that cannot be read is reported as worker-cpus.
            let list = settings.worker_cpus.as_deref().unwrap_or("none");
            let cpus = WorkerCpus::parse(list, &usable_cpus()).map_or(0, |cpus| cpus.cpus().len());
            let cpus = match cpus {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                cpus => cpus,
            };
            Ok(cpus.min(WORKERS_MAX))
        }
    }
}

/// Longest wait of a viewer for a publisher, in seconds: a week.
const VIEWER_WAIT_S_MAX: u64 = 7 * 24 * 3_600;

fn viewer_wait(seconds: u64) -> Result<u64, String> {
    match seconds {
        1..=VIEWER_WAIT_S_MAX => Ok(seconds),
        _ => Err(format!("is {seconds}; give 1 to {VIEWER_WAIT_S_MAX} seconds")),
    }
}

/// Highest limit of a publisher's rate, in Mbit/s: what one core takes in.
const PUBLISHER_MBITS_MAX: u32 = 10_000;

fn publisher_bitrate(mbits: u32) -> Result<u32, String> {
    match mbits {
        1..=PUBLISHER_MBITS_MAX => Ok(mbits),
        _ => Err(format!("is {mbits}; give 1 to {PUBLISHER_MBITS_MAX} Mbit/s")),
    }
}

/// Highest limit of a publisher's packets per second: 10 Gbit/s in packets of 1,200 bytes.
const PUBLISHER_PACKETS_MAX: u32 = 1_000_000;

fn publisher_packets(packets: u32) -> Result<u32, String> {
    match packets {
        1..=PUBLISHER_PACKETS_MAX => Ok(packets),
        _ => Err(format!("is {packets}; give 1 to {PUBLISHER_PACKETS_MAX} packets per second")),
    }
}

fn log_filter(text: String) -> Result<String, String> {
    match crate::log::parse_filter(&text) {
        Ok(_) => Ok(text),
        Err(problem) => {
            Err(format!("`{text}` is no log filter ({problem}); give for example weir=debug,info"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_read_and_printed_as_declared() {
        let config = Config::read(&Settings::default()).unwrap();
        for (setting, (key, value)) in SETTINGS.iter().zip(config.entries()) {
            assert_eq!(setting.key, key);
            let shown = value.trim_matches('"');
            match setting.key {
                "workers" => assert!(setting.default.starts_with("one per CPU")),
                _ if value == "unset" => assert_eq!(setting.default, "not set", "{key}"),
                _ => assert_eq!(setting.default, shown, "{key}"),
            }
        }
    }

    #[test]
    fn names_follow_one_pattern_and_none_is_used_twice() {
        let mut names: Vec<_> = SETTINGS.iter().flat_map(|s| [Some(s.key), s.alias]).collect();
        names.retain(Option::is_some);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for setting in SETTINGS {
            let env = format!("WEIR_{}", setting.key.to_ascii_uppercase().replace('-', "_"));
            assert_eq!(setting.env, env);
            let alias_env = setting
                .alias
                .map(|alias| format!("WEIR_{}", alias.to_ascii_uppercase().replace('-', "_")));
            assert_eq!(setting.env_alias.map(str::to_owned), alias_env);
            assert!(setting.help.ends_with('.'), "{}", setting.key);
        }
    }
}
