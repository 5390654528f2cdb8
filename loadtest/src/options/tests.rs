//! Command lines that are accepted, refused, and what they mean.

use super::flags::Common;
use super::*;

fn parse(args: &[&str]) -> Result<Options, String> {
    parse_options([&["weir-loadtest"], args].concat()).map_err(|e| e.to_string())
}

const BOTH: [&str; 4] = ["--whip", "http://h/whip/p{n}", "--whep", "http://h/whep/p{n}"];

#[test]
fn plain_flags_form_of_the_contract_is_accepted() {
    let options = parse(&[
        "--whip",
        "http://h/whip/a{n}",
        "--whep",
        "http://h/whep/a{n}",
        "--publishers",
        "3",
        "--viewers",
        "7",
        "--video-kbps",
        "900",
        "--fps",
        "25",
        "--codec",
        "vp8",
        "--simulcast",
        "3",
        "--audio",
        "--duration",
        "9",
        "--ramp",
        "12.5",
        "--verify",
        "sample",
        "--client",
        "light",
        "--token",
        "t",
        "--server-pid",
        "1",
        "--json",
        "x.json",
        "--allow-failures",
    ])
    .expect("is accepted");
    assert_eq!(options.whip_url(2), "http://h/whip/a2");
    assert_eq!((0..7).map(|v| options.whep_url(v)).filter(|u| u == "http://h/whep/a0").count(), 3);
    assert_eq!(options.common.ramp, 12.5);
}

#[test]
fn contradictory_options_are_refused_and_named() {
    for (args, word) in [
        (&["--viewers", "1"][..], "--whip"),
        (&["--whip", "http://h/a"], "--whep"),
        (&["--whip", "https://h/a", "--viewers", "0"], "http://"),
        (&["--whip", "http://h/a", "--viewers", "0", "--publishers", "2"], "{n}"),
        (&["--publishers", "0", "--viewers", "0"], "nothing"),
        (
            &["--whip", "http://h/a", "--whep", "http://h/b", "--verify", "none", "--record", "x"],
            "--record",
        ),
    ] {
        let error = parse(args).expect_err("must be refused");
        assert!(error.contains(word), "{error}");
    }
    for bad in [["--ramp", "0"], ["--simulcast", "4"], ["--cpu", "3-1"], ["--cpu", "x"]] {
        assert!(parse(&[&BOTH[..], &bad].concat()).is_err(), "{bad:?}");
    }
    let too_many = [&["conference"], &BOTH[..], &["--rooms", "100", "--per-room", "100"]].concat();
    assert!(parse(&too_many).is_err_and(|e| e.contains("20000")));
}

#[test]
fn every_participant_of_a_conference_watches_each_other_one_once() {
    let args = [&["conference"], &BOTH[..], &["--rooms", "3", "--per-room", "4"]].concat();
    let options = parse(&args).expect("is accepted");
    assert_eq!((options.publishers, options.viewers), (12, 36));
    let mut watched = std::collections::BTreeSet::new();
    for viewer in 0..36 {
        let (watcher, publisher) = (viewer / 3, options.publisher_of_viewer(viewer));
        assert_ne!(watcher, publisher, "no participant watches itself");
        assert_eq!(watcher / 4, publisher / 4, "the same room");
        assert!(watched.insert((watcher, publisher)), "once");
    }
    let url =
        Options { common: Common { whip: "r{room}-{n}".into(), ..options.common }, ..options }
            .whip_url(7);
    assert_eq!(url, "r1-7");
}

#[test]
fn scenarios_have_their_own_defaults_and_the_same_flags() {
    let audio = parse(&[&["audio"], &BOTH[..], &["--viewers", "30"]].concat()).expect("parses");
    assert_eq!((audio.publishers, audio.viewers, audio.audio), (10, 30, true));
    assert!(audio.video.none);
    let churn = parse(&[&["churn"], &BOTH[..], &["--per-second", "5"]].concat()).expect("parses");
    assert_eq!((churn.pattern, churn.scenario), (Pattern::Churn(5.0), "churn"));
    let live = parse(&[&["livestream"], &BOTH[..], &["--cpu", "1,3-4"]].concat()).expect("parses");
    assert_eq!((live.publishers, live.viewers), (1, 100));
    assert_eq!(live.common.cpu, Some(CpuList(vec![1, 3, 4])));
    assert!(parse(&[&BOTH[..], &["livestream"]].concat()).is_err(), "flags follow the scenario");
}

#[test]
fn help_texts_show_the_placeholder_of_urls() {
    for args in [&["--help"][..], &["conference", "--help"], &["audio", "-h"]] {
        let help = parse(args).expect_err("is the help");
        assert!(help.contains("'http://") && help.contains("{n}"), "{help}");
        assert!(help.contains("WHIP endpoint of the publishers; {n} is"), "{help}");
    }
}
