//! The binary as operators and scripts use it: help, exit codes, ready line, signals.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test root")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn weir(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").args(args);
    command
}

fn output(args: &[&str]) -> (Output, String) {
    let output = weir(args).output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8(text).unwrap())
}

#[test]
fn help_has_sections_examples_and_variables() {
    let (output, text) = output(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for part in [
        "Addresses:",
        "Access:",
        "Running:",
        "Examples:",
        "WEIR_HTTP",
        "check-config",
        "--public-ip",
    ] {
        assert!(text.contains(part), "missing {part}:\n{text}");
    }
}

#[test]
fn a_bad_configuration_is_exit_2_and_names_its_key() {
    for (args, named) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--media-port", "99999"], "--media-port"),
        (&["--http", "0.0.0.0:0"], "http"),
        (&["--http", "0.0.0.0:0"], "--insecure-open"),
        (&["--workers", "0"], "workers"),
        (&["check-config", "--advertise", "nowhere"], "advertise"),
        (&["--config", "/does/not/exist.toml"], "/does/not/exist.toml"),
        (&["--http"], "'--http <ADDR:PORT>'"),
        (&["--media-port", "abc"], "it is not a whole number of 0 or more"),
        (&["--media-port", "99999"], "it is above 65535, the largest number that fits"),
        (&["--viewer-wait", "10s"], "give it without s, such as 10"),
        (&["--viewer-wait", "-1"], "--viewer-wait <SECONDS>': it is not a whole number of 0"),
        (&["--publisher-bitrate", "2.5"], "give it without .5, such as 2"),
        (&["--media_port", "1"], "--media-port"),
    ] {
        let (output, text) = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}\n{text}");
        assert!(text.contains(named), "{args:?} should name {named}:\n{text}");
    }
}

#[test]
fn a_bad_value_is_named_by_the_place_that_gave_it() {
    let named_by = |variable: (&str, &str), args: &[&str]| {
        let output =
            weir(&["check-config"]).args(args).env(variable.0, variable.1).output().unwrap();
        let text = String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{variable:?} {args:?}\n{text}");
        text
    };
    for variable in [
        ("WEIR_MEDIA_PORT", "99999"),
        ("WEIR_STRICT", "perhaps"),
        ("WEIR_LOG_FORMAT", "xml"),
        ("WEIR_HTTP", "nowhere"),
        ("WEIR_START", "nonsense"),
    ] {
        let text = named_by(variable, &[]);
        assert!(text.contains(variable.0) && text.contains(variable.1), "{text}");
        assert!(!text.contains("--media-port") && !text.contains("--http"), "{text}");
    }
    let text = named_by(("WEIR_MEDIA_PORT", "99999"), &["--media-port", "99998"]);
    assert!(text.contains("--media-port") && text.contains("99998"), "{text}");
    let text = named_by(("WEIR_START", "wait"), &["--start", "nonsense"]);
    assert!(
        text.contains("--start: is `nonsense`; must be fast-forward, poster or wait"),
        "{text}"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"takeover = \"perhaps\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let text = named_by(("WEIR_START", "wait"), &["--config", path]);
    assert!(text.contains(&format!("takeover in {path}: is `perhaps`")), "{text}");
}

#[test]
fn public_ip_is_a_variable_too_and_the_name_of_the_flag_wins() {
    let shown = |variables: &[(&str, &str)]| {
        let output = weir(&["check-config"]).envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find(|line| line.starts_with("advertise")).unwrap().to_owned()
    };
    let line = shown(&[("WEIR_PUBLIC_IP", "203.0.113.7")]);
    assert!(line.contains("203.0.113.7") && line.ends_with("# WEIR_PUBLIC_IP"), "{line}");
    let line = shown(&[("WEIR_PUBLIC_IP", "203.0.113.7"), ("WEIR_ADVERTISE", "203.0.113.8")]);
    assert!(line.contains("203.0.113.8") && line.ends_with("# WEIR_ADVERTISE"), "{line}");
}

#[test]
fn check_config_warns_of_a_variable_that_is_no_setting() {
    let output = weir(&["check-config"]).env("WEIR_MEDIAPORT", "9000").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("WEIR_MEDIAPORT is set") && text.contains("is WEIR_MEDIA_PORT meant?"));
}

#[test]
fn a_variable_that_is_no_setting_is_a_warning() {
    let server = Running::with_env("WEIR_HTPP", "127.0.0.1:1");
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("WEIR_HTPP is set in the environment"), "{log}");
    assert!(log.contains("WARN"), "{log}");
}

#[test]
fn check_config_shows_each_value_and_where_it_comes_from() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"workers = 3\nstrict = true\nmedia-port = 7000\n").unwrap();
    let path = file.path().to_str().unwrap();
    let output = weir(&["check-config", "--config", path, "--media-port", "7001"])
        .env("WEIR_STRICT", "no")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for (setting, origin) in [
        ("workers = 3", "file"),
        ("media-port = 7001", "flag"),
        ("strict = false", "WEIR_STRICT"),
        ("http = \"127.0.0.1:8080\"", "default"),
    ] {
        let line =
            text.lines().find(|line| line.starts_with(setting)).unwrap_or_else(|| panic!("{text}"));
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    }
}

/// Running server; killed when dropped.
struct Running {
    child: Child,
    http: String,
    media_port: u16,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::spawn(weir(&["--http", "127.0.0.1:0", "--media-port", "0"]).args(args))
    }

    fn with_env(name: &str, value: &str) -> Self {
        Self::spawn(weir(&["--http", "127.0.0.1:0", "--media-port", "0"]).env(name, value))
    }

    fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::piped())
    }

    fn spawn_with(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let rest =
            line.trim_end().strip_prefix("weir ready http=").unwrap_or_else(|| panic!("{line:?}"));
        let (http, media) = rest.split_once(" media=").unwrap();
        let media_port = media.parse::<std::net::SocketAddr>().unwrap().port();
        assert_ne!(media_port, 0);
        Self { http: http.to_owned(), media_port, child }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the process to end; returns its exit code.
    fn end_without_log(mut self) -> Option<i32> {
        self.wait()
    }

    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.wait().unwrap().code()
    }

    /// Waits for the process to end; returns its exit code and its stderr.
    fn end(mut self) -> (Option<i32>, String) {
        self.wait();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_from_its_ready_line_and_stops_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Running::start(&[]);
        for path in ["/livez", "/readyz", "/", "/metrics", "/api/v1/stats"] {
            assert!(server.get(path).starts_with("HTTP/1.1 200 OK"), "{path}");
        }
        server.signal(signal);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("workers = "), "the effective configuration is on stderr: {log}");
    }
}

#[test]
fn end_of_a_session_is_one_line_in_the_words_of_the_glossary() {
    let server = Running::start(&[]);
    let offer = include_str!("offers/viewer.sdp").replace('\n', "\r\n");
    let answer = server.post("/whep/demo", &offer);
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
    let mut stream = TcpStream::connect(&server.http).unwrap();
    write!(stream, "DELETE {location} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    server.signal(Signal::TERM);
    let (_, log) = server.end();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("session=")).collect();
    let [line] = lines[..] else { panic!("one line, as it never connected: {log}") };
    for part in ["INFO", "closed", "role=viewer", "stream=demo", "reason=\"deleted\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn refused_offer_is_one_warning_that_says_why() {
    let server = Running::start(&[]);
    for _ in 0..20 {
        let answer = server.post("/whip/demo", "v=0\r\nhello\u{1b}[31m");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    server.post("/whip/a%0Ab", "v=0");
    server.signal(Signal::TERM);
    let (_, log) = server.end();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("offer refused")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    let first = lines[0];
    for part in ["WARN", "stream=\"demo\"", "status=400", "reason=\"malformed\"", "line 2"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    assert!(!first.contains('\u{1b}'), "{first}");
    assert!(lines[1].contains("stream=\"a%0Ab\"") && lines[1].contains("unwritten=19"), "{log}");
}

#[test]
fn sighup_reads_the_file_again_and_a_bad_file_changes_nothing() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let server = Running::start(&["--config", &path, "--log-format", "json"]);
    let policy = || server.get("/");
    assert!(!policy().contains("live.example.org"));

    let write = |file: &mut tempfile::NamedTempFile, text: &str| {
        file.as_file().set_len(0).unwrap();
        std::fs::write(file.path(), text).unwrap();
    };
    write(&mut file, "public-url = \"https://live.example.org\"\nworkers = 7\n");
    server.signal(Signal::HUP);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !policy().contains("live.example.org") {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    write(&mut file, "public-url = 7\n");
    server.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(policy().contains("live.example.org"));
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("after a restart: workers = 7 (was "), "{log}");
    assert!(
        log.contains(r#"changed: public-url = \"https://live.example.org\" (was unset)"#),
        "{log}"
    );
    let refused: Vec<_> = log.lines().filter(|l| l.contains("nothing was changed")).collect();
    assert_eq!(refused.len(), 1, "{log}");
    assert!(refused[0].contains("public-url") && refused[0].contains(&path), "{log}");
}

#[test]
fn a_port_that_is_taken_is_exit_2_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (output, text) = output(&["--http", &addr, "--media-port", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("http: cannot listen on"), "{text}");
}

#[test]
fn a_second_server_on_one_media_port_is_exit_2_and_named() {
    for workers in ["1", "2"] {
        let first = Running::start(&["--workers", workers]);
        let port = first.media_port.to_string();
        let (output, text) =
            output(&["--http", "127.0.0.1:0", "--media-port", &port, "--workers", workers]);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("media-port: cannot bind [::]:{port}")), "{text}");
        assert!(!text.contains("weir ready"), "{text}");
        first.signal(Signal::TERM);
        assert_eq!(first.end().0, Some(0));
    }
}

/// A server that logs everything into a pipe.
fn with_pipe(stderr: std::io::PipeWriter) -> Running {
    let args = ["--http", "127.0.0.1:0", "--media-port", "0", "--log", "trace"];
    Running::spawn_with(&mut weir(&args), stderr)
}

fn dropped(server: &Running, reason: &str) -> u64 {
    let name = format!("weir_log_lines_dropped_total{{reason=\"{reason}\"}} ");
    let metrics = server.get("/metrics");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Requests with long paths, so that a pipe of 64 KiB is full after a few.
fn fill_the_log(server: &Running, requests: usize) {
    let path = format!("/nothing/{}", "x".repeat(4_000));
    for _ in 0..requests {
        assert!(server.get(&path).starts_with("HTTP/1.1 404 "));
    }
}

#[test]
fn http_answers_while_nobody_reads_the_log() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let server = with_pipe(writer);
    let begun = Instant::now();
    // 64 KiB fill the pipe, and 1 MiB the queue behind it.
    while dropped(&server, "queue_full") == 0 {
        fill_the_log(&server, 50);
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    for path in ["/livez", "/readyz", "/", "/api/v1/stats"] {
        assert!(server.get(path).starts_with("HTTP/1.1 200 OK"), "{path}");
    }
    // Once it is read the log goes on, and tells what is missing.
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    std::thread::sleep(Duration::from_millis(500));
    fill_the_log(&server, 1);
    server.signal(Signal::TERM);
    assert_eq!(server.end_without_log(), Some(0));
    let log = reading.join().unwrap();
    assert!(log.contains("log lines were dropped, because stderr was not read in time lines="));
    assert!(log.contains("stopping: no new sessions"), "what waits at the end is written");
}

#[test]
fn a_log_that_is_closed_or_never_read_does_not_stop_the_end() {
    for closed in [true, false] {
        let (reader, writer) = std::io::pipe().unwrap();
        let server = with_pipe(writer);
        let held = (!closed).then_some(reader);
        fill_the_log(&server, 50);
        assert!(server.get("/livez").starts_with("HTTP/1.1 200 OK"), "closed: {closed}");
        assert_eq!(dropped(&server, "write_failed") > 0, closed);
        let begun = Instant::now();
        server.signal(Signal::TERM);
        assert_eq!(server.end_without_log(), Some(0), "closed: {closed}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(held);
    }
}

#[test]
fn a_stdout_that_is_full_or_closed_does_not_stop_the_server() {
    for closed in [true, false] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let held = if closed {
            drop(reader);
            None
        } else {
            fill(&mut writer);
            Some(reader)
        };
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let http = taken.local_addr().unwrap().to_string();
        drop(taken);
        let mut command = weir(&["--http", &http, "--media-port", "0"]);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let server = Running { child, http, media_port: 0 };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&server.http).is_err() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(server.get("/livez").starts_with("HTTP/1.1 200 OK"), "closed: {closed}");
        server.signal(Signal::TERM);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        drop(held);
    }
}

/// Fills a pipe to its last byte.
fn fill(pipe: &mut std::io::PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(&*pipe).unwrap();
    fcntl_setfl(&*pipe, flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while pipe.write(&[b'x'; 4096][..size]).is_ok() {}
    }
    fcntl_setfl(&*pipe, flags).unwrap();
}

#[test]
fn a_line_that_repeats_is_written_ten_times_a_second_and_then_summed_up() {
    let server = Running::start(&[]);
    let offer = include_str!("offers/viewer.sdp").replace('\n', "\r\n");
    let begun = Instant::now();
    for _ in 0..60 {
        let answer = server.post("/whep/demo", &offer);
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        let mut stream = TcpStream::connect(&server.http).unwrap();
        let delete = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        write!(stream, "DELETE {location} {delete}").unwrap();
        stream.read_to_string(&mut String::new()).unwrap();
    }
    let seconds = begun.elapsed().as_secs() as usize + 1;
    std::thread::sleep(Duration::from_millis(2_200));
    let repeated = dropped(&server, "repeated");
    server.signal(Signal::TERM);
    let (_, log) = server.end();
    let written = log.lines().filter(|line| line.contains("reason=\"deleted\"")).count();
    assert_eq!(written as u64 + repeated, 60, "{log}");
    assert!(written <= 10 * (seconds + 1), "{written} in {seconds} s");
    if repeated > 0 {
        let sums: u64 = log
            .lines()
            .filter_map(|line| line.split("left out, like: ").nth(1)?.split("lines=").nth(1))
            .map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(sums, repeated, "{log}");
    }
}

/// Starts the server with at most so many open files.
fn with_open_files(files: u32) -> Running {
    let mut command = Command::new("sh");
    let script =
        format!("ulimit -n {files} && exec \"$0\" --http 127.0.0.1:0 --media-port 0 --workers 2");
    Running::spawn(command.args(["-c", &script, env!("CARGO_BIN_EXE_weir")]))
}

/// Every place had to be a file, or nobody gave way and new clients waited for nothing.
#[test]
fn few_open_files_are_told_and_keep_nobody_out() {
    let server = with_open_files(64);
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(&server.http).unwrap()).collect();
    assert!(server.get("/livez").starts_with("HTTP/1.1 200 "));
    let metrics = server.get("/metrics");
    let evicted = "weir_http_connections_closed_total{reason=\"evicted\"} ";
    let evicted = metrics.lines().find_map(|line| line.strip_prefix(evicted)).unwrap();
    assert!(evicted.parse::<u32>().unwrap() >= 60, "{metrics}");
    drop(idle);
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    let told = "the limit of open files is 64, so there are 32 places";
    assert!(log.contains(told) && log.contains("LimitNOFILE="), "{log}");
}

/// 300 clients that connect at once: the kernel held 128, and the others lost a second or more.
#[test]
fn clients_that_connect_at_once_are_held_by_the_kernel_until_they_are_accepted() {
    let held = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let wanted = 300.min(held.trim().parse::<usize>().unwrap());
    let server = Running::start(&[]);
    server.signal(Signal::STOP);
    let addr = server.http.parse().unwrap();
    let second = Duration::from_secs(1);
    let connected: Vec<_> =
        (0..wanted).map_while(|_| TcpStream::connect_timeout(&addr, second).ok()).collect();
    server.signal(Signal::CONT);
    assert_eq!(connected.len(), wanted);
    drop(connected);
    assert!(server.get("/livez").starts_with("HTTP/1.1 200 "));
}

#[test]
fn configuration_that_is_no_file_or_too_long_is_refused_and_a_reload_of_it_blocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.toml");
    let text = path.to_str().unwrap();
    let replace_by_fifo = || {
        _ = std::fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    };
    std::fs::write(&path, "").unwrap();
    let server = Running::start(&["--config", text]);
    replace_by_fifo();
    server.signal(Signal::HUP);
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    let (refused, text_of_fifo) = output(&["check-config", "--config", text]);
    assert!(text_of_fifo.contains("it is no regular file"), "{text_of_fifo}");
    assert_eq!(refused.status.code(), Some(2));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
    let (_, text_of_long) = output(&["check-config", "--config", text]);
    assert!(text_of_long.contains("longer than 1048576 bytes"), "{text_of_long}");
    std::fs::write(&path, format!("{} = 1", "a".repeat(1024 * 1024 - 4))).unwrap();
    let (_, text_of_line) = output(&["check-config", "--config", text]);
    assert!(text_of_line.contains("line 1") && text_of_line.len() < 3_000, "{text_of_line}");
}
