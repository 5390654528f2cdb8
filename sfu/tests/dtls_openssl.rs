//! Our DTLS against OpenSSL's command line over loopback: both roles, ECDSA and RSA peers, keys
//! compared by packets. OpenSSL is what FFmpeg and OBS use. Needs the `openssl` program.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test root opens the clock and may panic"
)]

use std::io::Read;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir_sfu::sdp::{DtlsRole, Fingerprint, FingerprintAlgorithm};
use weir_sfu::transport::dtls::{Dtls, DtlsBackend, DtlsCertificate, DtlsEvent};
use weir_sfu::transport::srtp::{SrtpKeys, SrtpProfile, SrtpReceiver, SrtpSender};

const PROFILES: &str = "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM";

/// OpenSSL's key, certificate and, once it runs, its process.
struct Peer {
    dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn openssl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(args).stderr(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

fn file(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

fn make_peer(name: &str, new_key: &[&str]) -> (Peer, Fingerprint) {
    let dir = std::env::temp_dir().join(format!("weir-dtls-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (key, cert) = (file(&dir, "key.pem"), file(&dir, "cert.pem"));
    let mut args = vec!["req", "-x509", "-nodes", "-subj", "/CN=peer", "-days", "2"];
    args.extend_from_slice(&["-keyout", &key, "-out", &cert]);
    args.extend_from_slice(new_key);
    openssl(&args);
    let der = openssl(&["x509", "-in", &cert, "-outform", "der"]);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der).as_ref().to_vec();
    (Peer { dir, child: None }, Fingerprint { algorithm: FingerprintAlgorithm::Sha256, digest })
}

/// Starts OpenSSL in the role that is not ours. The socket is connected if we are to speak first.
fn spawn(peer: &mut Peer, role: DtlsRole, socket: &UdpSocket) {
    let (key, cert) = (file(&peer.dir, "key.pem"), file(&peer.dir, "cert.pem"));
    let mut command = Command::new("openssl");
    match role {
        DtlsRole::Server => {
            let ours = socket.local_addr().unwrap().to_string();
            command.args(["s_client", "-dtls1_2", "-connect", &ours]);
        }
        DtlsRole::Client => {
            let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            socket.connect(free).unwrap();
            command.args(["s_server", "-dtls1_2", "-Verify", "1", "-accept", &free.to_string()]);
        }
    }
    command.args(["-use_srtp", PROFILES, "-cert", &cert, "-key", &key]);
    command.args(["-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "88"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    peer.child = Some(command.spawn().unwrap());
}

/// Drives the handshake over the socket; returns the negotiated result.
fn run(dtls: &mut dyn Dtls, socket: &UdpSocket) -> Option<(SrtpProfile, SrtpKeys)> {
    let begin = Instant::now();
    let mut connected = None;
    let mut end = begin + Duration::from_secs(10);
    let mut buf = [0u8; 2_000];
    while Instant::now() < end {
        // OpenSSL's server needs a moment to open its port.
        if begin.elapsed() > Duration::from_millis(300) {
            dtls.start(Instant::now());
        }
        if let Ok((len, from)) = socket.recv_from(&mut buf) {
            if socket.peer_addr().is_err() {
                socket.connect(from).unwrap();
            }
            let _ = dtls.handle(Instant::now(), &buf[..len]);
        }
        if dtls.next_timeout().is_some_and(|at| at <= Instant::now()) {
            dtls.handle_timeout(Instant::now());
        }
        while let Some(datagram) = dtls.poll_transmit() {
            let _ = socket.send(&datagram);
        }
        match dtls.poll_event() {
            Some(DtlsEvent::Connected { profile, keys }) => {
                connected = Some((profile, keys));
                end = Instant::now() + Duration::from_millis(300);
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    dtls.close(Instant::now());
    while let Some(datagram) = dtls.poll_transmit() {
        let _ = socket.send(&datagram);
    }
    connected
}

/// A whole handshake; our profile. The keys of both sides open each other's packets.
fn handshake(name: &str, new_key: &[&str], role: DtlsRole) -> SrtpProfile {
    let (mut peer, fingerprint) = make_peer(name, new_key);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    spawn(&mut peer, role, &socket);
    let certificate = DtlsCertificate::generate().unwrap();
    let mut dtls = certificate.associate(role, vec![fingerprint]);
    let connected = run(dtls.as_mut(), &socket);
    let (profile, keys) = connected.unwrap_or_else(|| panic!("{name}: no handshake"));

    std::thread::sleep(Duration::from_millis(200));
    let child = peer.child.as_mut().unwrap();
    let _ = child.kill();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    let hex = printed.lines().find_map(|line| line.trim().strip_prefix("Keying material: "));
    let hex = hex.unwrap_or_else(|| panic!("{name}: {printed}"));
    // A shorter export is the beginning of a longer one (RFC 5246 section 5).
    let material: Vec<u8> = (0..profile.keying_material_len())
        .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let theirs = SrtpKeys::from_exporter(profile, role == DtlsRole::Server, &material).unwrap();
    for (local, remote) in [(&keys.local, &theirs.remote), (&theirs.local, &keys.remote)] {
        let mut packet = [0u8; 64];
        packet[..2].copy_from_slice(&[0x80, 201]);
        let len = SrtpSender::new(profile, local).seal_rtcp(&mut packet, 8, 0).unwrap();
        assert_eq!(SrtpReceiver::new(profile, remote).open_rtcp(&mut packet[..len]), Ok(8));
    }
    profile
}

#[test]
fn openssl_connects_in_both_roles_with_ecdsa_and_rsa() {
    let ecdsa = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let rsa = ["-newkey", "rsa:2048"];
    // As client we leave the choice to the server, which uses its own order.
    for (name, role, key, expected) in [
        ("server-ecdsa", DtlsRole::Server, &ecdsa[..], SrtpProfile::AeadAes128Gcm),
        ("server-rsa", DtlsRole::Server, &rsa, SrtpProfile::AeadAes128Gcm),
        ("client-ecdsa", DtlsRole::Client, &ecdsa, SrtpProfile::Aes128CmHmacSha1_80),
        ("client-rsa", DtlsRole::Client, &rsa, SrtpProfile::Aes128CmHmacSha1_80),
    ] {
        assert_eq!(handshake(name, key, role), expected, "{name}");
    }
}
