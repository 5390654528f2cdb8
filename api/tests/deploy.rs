//! The deployment files agree with the binary: flags, ports, paths and metric names.
//!
//! No container engine is needed: the files are parsed and compared with `weir --help` and with
//! the names of `/metrics`. Whether the images build is not tested here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use saphyr::{LoadableYamlNode, YamlOwned};
use weir::cli::Cli;
use weir::metrics;
use weir::settings::SETTINGS;

#[test]
fn compose_names_files_that_exist_and_publishes_no_port() {
    let compose = yaml("docker-compose.yml");
    for (name, service) in services(&compose) {
        assert_eq!(get(service, "network_mode").as_str(), Some("host"), "{name}");
        assert!(!service.contains_mapping_key("ports"), "{name}: nothing is published");
        match service.as_mapping_get("build") {
            Some(build) => exists(get(build, "dockerfile").as_str().expect("a path")),
            None => {
                let (_, tag) = get(service, "image").as_str().unwrap().split_once(':').unwrap();
                assert!(tag.contains('.') && tag != "latest", "{name}: pin the image, not {tag}");
            }
        }
        let volumes = service.as_mapping_get("volumes").and_then(YamlOwned::as_sequence);
        for volume in volumes.into_iter().flatten().filter_map(YamlOwned::as_str) {
            let (source, _) = volume.split_once(':').expect("source:target");
            match source.strip_prefix("./") {
                Some(path) => exists(path),
                None => assert!(get(&compose, "volumes").contains_mapping_key(source), "{source}"),
            }
        }
    }
}

#[test]
fn containers_use_the_defaults_of_the_binary() {
    let compose = yaml("docker-compose.yml");
    let (_, weir) = services(&compose).find(|(name, _)| *name == "weir").expect("a weir service");
    let command: Vec<_> =
        get(weir, "command").as_sequence().unwrap().iter().filter_map(YamlOwned::as_str).collect();
    let [http_flag, http, media_flag, media_port] = command[..] else {
        panic!("a command of --http and --media-port, not {command:?}");
    };
    assert!(http.starts_with("127.0.0.1:"), "loopback only, not {http}");
    for (flag, value) in [(http_flag, http), (media_flag, media_port)] {
        let about = about(flag);
        assert!(about.contains(value), "{value} is not the default of {about}");
    }

    let (_, http_port) = http.rsplit_once(':').unwrap();
    let dockerfile = read("api/Dockerfile");
    assert!(dockerfile.contains(&format!("\nEXPOSE {http_port}/tcp {media_port}/udp\n")));
    assert!(dockerfile.contains(&format!("/dev/tcp/127.0.0.1/{http_port} ")));
    assert!(dockerfile.contains("GET /livez "));
    assert!(dockerfile.contains("\nUSER "), "the image must not run as root");
    let rust = read("Cargo.toml");
    let rust = rust.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(dockerfile.contains(&format!("FROM rust:{rust}-")), "the image builds with {rust}");

    let prometheus = yaml("docs/deploy/prometheus.yml");
    let scrape = &get(&prometheus, "scrape_configs")[0];
    assert_eq!(scrape["static_configs"][0]["targets"][0].as_str(), Some(http));
}

#[test]
fn grafana_finds_prometheus_and_the_dashboard() {
    let compose = read("docker-compose.yml");
    let sources = yaml("docs/deploy/grafana/datasources/prometheus.yml");
    let source = &get(&sources, "datasources")[0];
    let listen = source["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    assert!(listen.starts_with("127.0.0.1:"), "loopback only, not {listen}");
    assert!(compose.contains(&format!("--web.listen-address={listen}\n")));
    assert!(compose.contains("GF_SERVER_HTTP_ADDR: 127.0.0.1\n"));

    let providers = yaml("docs/deploy/grafana/dashboards/weir.yml");
    let provider = &get(&providers, "providers")[0];
    let folder = provider["options"]["path"].as_str().unwrap();
    assert!(compose.contains("./docs/deploy/grafana:/etc/grafana/provisioning:ro"));
    assert_eq!(folder, "/etc/grafana/provisioning/dashboards");

    let dashboard = dashboard();
    let uid = source["uid"].as_str().unwrap();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|p| p["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], uid, "{}", panel["title"]);
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
    }
}

#[test]
fn dashboard_and_rules_use_only_metrics_that_exist() {
    let exported: BTreeSet<String> = metrics::names().collect();
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let drawn: BTreeSet<String> = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
        .flat_map(|target| names(target["expr"].as_str().expect("an expression")))
        .collect();
    assert!(drawn.len() >= 15, "only {drawn:?}");
    let texts = ["docs/deploy/prometheus.yml", "docs/deploy/README.md"];
    let named = texts.into_iter().flat_map(|path| names(&read(path)));
    let drawn: BTreeSet<String> = drawn.into_iter().chain(named).collect();
    let unknown: Vec<_> = drawn.difference(&exported).collect();
    assert!(unknown.is_empty(), "not in /metrics: {unknown:?}");
}

#[test]
fn the_readme_has_every_setting_as_it_is_declared() {
    let readme = read("README.md");
    let shown: Vec<_> = readme.lines().filter(|line| line.starts_with("| `--")).collect();
    let declared = SETTINGS.iter().map(|setting| {
        let alias = setting.alias.map_or(String::new(), |alias| format!(", `--{alias}`"));
        row(&format!("`--{}`{alias}", setting.key), setting.default, setting.help)
    });
    let command = Cli::command();
    let config = command.get_arguments().find(|arg| arg.get_id() == "config").unwrap();
    let help = format!("{}.", config.get_help().unwrap());
    let declared: Vec<_> = declared.chain([row("`--config`", "not set", &help)]).collect();
    assert_eq!(shown, declared, "left: README.md, right: api/src/settings.rs");

    let reloadable = SETTINGS.iter().filter(|setting| setting.reload);
    let reloadable: Vec<_> = reloadable.map(|setting| format!("`{}`", setting.key)).collect();
    let sentence = format!("It applies {};", reloadable.join(", "));
    assert!(readme.contains(&sentence), "README.md should say: {sentence}");
}

/// One line of the README's table. A default that is words and no value stands without code marks.
fn row(flags: &str, default: &str, help: &str) -> String {
    let default = if default.contains(' ') { default.to_owned() } else { format!("`{default}`") };
    format!("| {flags} | {default} | {help} |")
}

/// Metric names in a text, recognised by their prefix.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| word.starts_with("weir_") || word.starts_with("process_");
    words.filter(ours).map(str::to_owned).collect()
}

/// Help of one flag: its line and those below, up to the next flag.
fn about(flag: &str) -> String {
    let help = help();
    let mut lines = help.lines().skip_while(|line| !line.trim_start().starts_with(flag));
    let first = lines.next().unwrap_or_else(|| panic!("no {flag} in --help"));
    let more = lines.take_while(|line| !line.trim_start().starts_with('-'));
    [first].into_iter().chain(more).collect::<Vec<_>>().join("\n")
}

fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).arg("--help").output();
    let output = output.expect("the binary runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("help is text")
}

fn dashboard() -> serde_json::Value {
    let text = read("docs/deploy/grafana/dashboards/weir.json");
    serde_json::from_str(&text).expect("a dashboard is JSON")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("api/ has a parent").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn exists(path: &str) {
    assert!(root().join(path).exists(), "{path} does not exist");
}

fn yaml(path: &str) -> YamlOwned {
    let documents = YamlOwned::load_from_str(&read(path));
    let documents = documents.unwrap_or_else(|error| panic!("{path}: {error}"));
    documents.into_iter().next().expect("one document")
}

fn get<'a>(node: &'a YamlOwned, key: &str) -> &'a YamlOwned {
    node.as_mapping_get(key).unwrap_or_else(|| panic!("no `{key}`"))
}

fn services(compose: &YamlOwned) -> impl Iterator<Item = (&str, &YamlOwned)> {
    let services = get(compose, "services").as_mapping().expect("a mapping");
    services.iter().map(|(name, service)| (name.as_str().expect("a name"), service))
}
