//! Signs that a request came through a proxy: the headers that proxies add, and HTTP/1.0.
//!
//! They count as such whatever they say, because a proxy that serves strangers makes each of them look like
//! a client of this machine. Reads no address from them. Pure. Called by `access.rs`.

use axum::http::{HeaderMap, Version};

/// Headers that proxies, load balancers and tunnels add. No client sends them by itself; `Proxy-Connection` is
/// not among them, because clients send that to a proxy of their own.
const NAMES: [&str; 46] = [
    "forwarded",
    "via",
    "cdn-loop",
    "max-forwards",
    "surrogate-capability",
    "early-data",
    // The client's address.
    "akamai-origin-hop",
    "cloudfront-viewer-address",
    "do-connecting-ip",
    "forwarded-for",
    "incap-client-ip",
    "tailscale-user-login",
    "x-client-port",
    "x-forward-for",
    "x-source-ip",
    "x-sucuri-clientip",
    "x_forwarded_for",
    "client-ip",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-real-port",
    "x-remote-addr",
    "x-remote-ip",
    "remote-addr",
    // The address that the client asked for.
    "front-end-https",
    "x-forwarder-for",
    "x-host",
    "x-http-host-override",
    "x-original-host",
    "x-original-proto",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
    // The proxy itself.
    "x-cloud-trace-context",
    "x-request-start",
    "x-ssl",
    "x-nginx-proxy",
    "x-varnish",
];

/// Beginnings of header names, for those of whom there are many.
const PREFIXES: [&str; 13] = [
    "x-forwarded",
    "x-original-forwarded",
    "x-proxy",
    "x-arr-",
    "x-amz-cf-",
    "x-amzn-",
    "x-azure-",
    "x-appengine-",
    "x-envoy-",
    "x-vercel-",
    "cf-",
    "fastly-",
    "fly-",
];

/// A header of the request that only a proxy adds.
pub fn has_forwarding_header(headers: &HeaderMap) -> Option<&str> {
    let is_added = |name: &&str| {
        NAMES.contains(name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    headers.keys().map(|name| name.as_str()).find(is_added)
}

/// Whether a request of this version looks like one of nginx before 1.29.7 as it is without `proxy_set_header`
/// and `proxy_http_version`: HTTP/1.0, which no browser and no WHIP client speaks.
pub fn is_of_plain_proxy(version: Version) -> bool {
    version <= Version::HTTP_10
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn with(name: &str) -> HeaderMap {
        let name: HeaderName = name.parse().unwrap();
        HeaderMap::from_iter([(name, HeaderValue::from_static("127.0.0.1"))])
    }

    #[test]
    fn headers_of_every_kind_of_proxy_are_known() {
        for name in [
            "Forwarded",
            "Via",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded",
            "X-Forwarded-Anything",
            "X-Original-Forwarded-For",
            "X-Real-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "CF-Connecting-IP",
            "CF-Ray",
            "True-Client-IP",
            "Fastly-Client-IP",
            "Fly-Client-IP",
            "X-Azure-ClientIP",
            "X-Amzn-Trace-Id",
            "X-Envoy-External-Address",
            "X-ARR-SSL",
            "CDN-Loop",
            "Surrogate-Capability",
            "Early-Data",
            "X-Request-Start",
            "X-Cloud-Trace-Context",
            "CloudFront-Viewer-Address",
            "Akamai-Origin-Hop",
            "Incap-Client-IP",
            "DO-Connecting-IP",
            "X-Sucuri-ClientIP",
            "X-Source-IP",
            "Forwarded-For",
            "X-Forward-For",
            "X_Forwarded_For",
            "Tailscale-User-Login",
            "X-Client-Port",
            "X-SSL",
        ] {
            let headers = with(name);
            let lower = name.to_ascii_lowercase();
            assert_eq!(has_forwarding_header(&headers), Some(lower.as_str()));
        }
    }

    #[test]
    fn headers_that_clients_send_are_no_sign_of_a_proxy() {
        for name in [
            "Host",
            "Origin",
            "Referer",
            "User-Agent",
            "Accept",
            "Authorization",
            "Traceparent",
            "X-Request-Id",
            "X-Requested-With",
            "Sec-Fetch-Site",
            "Icy-MetaData",
            "Upgrade-Insecure-Requests",
        ] {
            assert_eq!(has_forwarding_header(&with(name)), None, "{name}");
        }
        assert!(is_of_plain_proxy(Version::HTTP_10));
        assert!(!is_of_plain_proxy(Version::HTTP_11) && !is_of_plain_proxy(Version::HTTP_2));
    }
}
