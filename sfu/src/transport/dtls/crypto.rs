//! Cryptography for one association, with the two things that `rtc-dtls` leaves to be done.
//!
//! Owns what is added to the library: the cookie of the HelloVerifyRequest is ours, because we send it before
//! `rtc-dtls` sees anything; and as server it does not compare the client's Finished with the handshake
//! (RFC 5246 section 7.4.9), so a record with a Finished that does not fit is refused here, as one with a
//! broken seal is. Counts the records whose seal was whole: only these are the peer's. Everything else goes to
//! `AwsLcRsProvider`. Made by `rtc.rs`, called by `rtc-dtls`.

use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::{constant_time, digest, hmac};
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_crypto::{
    ActiveKeyExchange, AeadAlgorithm, AeadCipher, BlockCipherAlgorithm, CbcAlgorithm, CbcCipher,
    CryptoAlgorithm, CryptoError, HashAlgorithm, HmacAlgorithm, KeyExchangeAlgorithm, Mac,
    PublicKey, RTCCrypto, RTCCryptoProvider, RTCRandom, SignatureScheme, SigningKey, StreamCipher,
    StreamCipherAlgorithm,
};

use super::client_hello::{COOKIE_BYTES, Cookie};
use super::message::{MESSAGE_HEADER, kind};
use super::record::content;

/// Bytes of `verify_data` (RFC 5246 section 7.4.9).
const VERIFY_DATA_BYTES: usize = 12;

/// Label by which the PRF makes the record keys, of the master secret (RFC 5246 section 6.3).
const KEY_EXPANSION: &[u8] = b"key expansion";

/// Index of the content type in the data that a record's seal covers besides its contents
/// (RFC 5246 section 6.2.3.3).
const SEALED_CONTENT_TYPE: usize = 8;

/// Cryptography of one association. Clones share their state.
#[derive(Clone)]
pub(super) struct AssociationCrypto {
    library: Arc<AwsLcRsProvider>,
    cookie: Cookie,
    state: Arc<Mutex<State>>,
}

/// Result of the check of the client's Finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finished {
    /// None came yet.
    Missing,
    /// It fits the handshake.
    Fits,
    /// The client has the keys, but not the same handshake.
    Differs,
}

struct State {
    /// Key that the last key expansion used.
    master_secret: Vec<u8>,
    /// Hash of all messages before the client's Finished, once they are known.
    transcript_hash: Option<digest::Digest>,
    finished: Finished,
    opened: u64,
    /// Last signature that was found valid, with its key and message, as a hash: `authenticity.rs` checks a
    /// flight before `rtc-dtls` does, and the second time costs a tenth of a millisecond for nothing.
    verified: Option<(SignatureScheme, digest::Digest)>,
}

impl AssociationCrypto {
    pub(super) fn new(cookie: Cookie) -> Self {
        Self {
            library: Arc::new(AwsLcRsProvider::new()),
            cookie,
            state: Arc::new(Mutex::new(State {
                master_secret: Vec::new(),
                transcript_hash: None,
                finished: Finished::Missing,
                opened: 0,
                verified: None,
            })),
        }
    }

    /// Has the client's Finished compared with this handshake: all its messages before that, whole.
    pub(super) fn expect_finished(&self, transcript: &[u8]) {
        self.state().transcript_hash = Some(digest::digest(&digest::SHA256, transcript));
    }

    /// What became of that.
    pub(super) fn finished(&self) -> Finished {
        self.state().finished
    }

    /// Number of the peer's records whose seal was whole.
    pub(super) fn opened(&self) -> u64 {
        self.state().opened
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the state would still be whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn on_opened(&self, content_type: Option<u8>, plaintext: &[u8]) -> Result<(), CryptoError> {
        let mut state = self.state();
        let is_finished =
            content_type == Some(content::HANDSHAKE) && plaintext.first() == Some(&kind::FINISHED);
        if is_finished && let Some(hash) = &state.transcript_hash {
            let expected = verify_data(&state.master_secret, b"client finished", hash.as_ref());
            let sent = plaintext.get(MESSAGE_HEADER..).unwrap_or_default();
            if constant_time::verify_slices_are_equal(sent, &expected).is_err() {
                state.finished = Finished::Differs;
                return Err(CryptoError::AuthenticationFailed);
            }
            state.finished = Finished::Fits;
        }
        state.opened += 1;
        Ok(())
    }
}

/// Contents of a Finished (RFC 5246 section 7.4.9), with the PRF of all our cipher suites.
fn verify_data(
    master_secret: &[u8],
    label: &[u8],
    transcript_hash: &[u8],
) -> [u8; VERIFY_DATA_BYTES] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, master_secret);
    let seed = [label, transcript_hash].concat();
    let first = hmac::sign(&key, &seed);
    let block = hmac::sign(&key, &[first.as_ref(), &seed].concat());
    let mut out = [0; VERIFY_DATA_BYTES];
    out.iter_mut().zip(block.as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}

impl RTCCryptoProvider for AssociationCrypto {
    fn name(&self) -> &'static str {
        self.library.name()
    }

    fn crypto(&self) -> &dyn RTCCrypto {
        self
    }

    fn random(&self) -> &dyn RTCRandom {
        self
    }
}

impl RTCRandom for AssociationCrypto {
    fn fill(&self, output: &mut [u8]) -> Result<(), CryptoError> {
        // Nothing else that `rtc-dtls` draws is of this length; `client_hello.rs` has a test.
        if output.len() == COOKIE_BYTES {
            output.copy_from_slice(&self.cookie);
            return Ok(());
        }
        self.library.random().fill(output)
    }
}

impl RTCCrypto for AssociationCrypto {
    fn supports(&self, algorithm: CryptoAlgorithm) -> bool {
        self.library.crypto().supports(algorithm)
    }

    fn hash(&self, algorithm: HashAlgorithm, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.library.crypto().hash(algorithm, data)
    }

    fn block_encrypt(
        &self,
        algorithm: BlockCipherAlgorithm,
        key: &[u8],
        block: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.library.crypto().block_encrypt(algorithm, key, block)
    }

    fn new_hmac(&self, algorithm: HmacAlgorithm, key: &[u8]) -> Result<Box<dyn Mac>, CryptoError> {
        let mac = self.library.crypto().new_hmac(algorithm, key)?;
        Ok(Box::new(KeyedMac { mac, key: key.to_vec(), association: self.clone() }))
    }

    fn new_stream_cipher(
        &self,
        algorithm: StreamCipherAlgorithm,
        key: &[u8],
    ) -> Result<Box<dyn StreamCipher>, CryptoError> {
        self.library.crypto().new_stream_cipher(algorithm, key)
    }

    fn new_aead(
        &self,
        algorithm: AeadAlgorithm,
        key: &[u8],
    ) -> Result<Box<dyn AeadCipher>, CryptoError> {
        let cipher = self.library.crypto().new_aead(algorithm, key)?;
        Ok(Box::new(RecordCipher { cipher, association: self.clone() }))
    }

    fn new_cbc(
        &self,
        algorithm: CbcAlgorithm,
        key: &[u8],
    ) -> Result<Box<dyn CbcCipher>, CryptoError> {
        self.library.crypto().new_cbc(algorithm, key)
    }

    fn start_key_exchange(
        &self,
        algorithm: KeyExchangeAlgorithm,
    ) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        self.library.crypto().start_key_exchange(algorithm)
    }

    fn generate_signing_key(
        &self,
        scheme: SignatureScheme,
    ) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.library.crypto().generate_signing_key(scheme)
    }

    fn import_signing_key(
        &self,
        scheme: SignatureScheme,
        pkcs8_der: &[u8],
    ) -> Result<Arc<dyn SigningKey>, CryptoError> {
        self.library.crypto().import_signing_key(scheme, pkcs8_der)
    }

    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        public_key: PublicKey<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [public_key.bytes, message, signature] {
            hash.update(&part.len().to_be_bytes());
            hash.update(part);
        }
        let checked = (scheme, hash.finish());
        let is_known = |known: &(SignatureScheme, digest::Digest)| {
            known.0 == scheme && known.1.as_ref() == checked.1.as_ref()
        };
        if self.state().verified.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        self.library.crypto().verify_signature(scheme, public_key, message, signature)?;
        self.state().verified = Some(checked);
        Ok(())
    }
}

/// HMAC that shows which key the record keys come from.
struct KeyedMac {
    mac: Box<dyn Mac>,
    key: Vec<u8>,
    association: AssociationCrypto,
}

impl Mac for KeyedMac {
    fn output_len(&self) -> usize {
        self.mac.output_len()
    }

    fn sign(&mut self, input: &[&[u8]], output: &mut [u8]) -> Result<(), CryptoError> {
        if input.first().is_some_and(|first| first.starts_with(KEY_EXPANSION)) {
            self.association.state().master_secret.clone_from(&self.key);
        }
        self.mac.sign(input, output)
    }

    fn verify(&mut self, input: &[&[u8]], expected: &[u8]) -> Result<(), CryptoError> {
        self.mac.verify(input, expected)
    }
}

/// Cipher of records, which looks at what it opens.
struct RecordCipher {
    cipher: Box<dyn AeadCipher>,
    association: AssociationCrypto,
}

impl AeadCipher for RecordCipher {
    fn tag_len(&self) -> usize {
        self.cipher.tag_len()
    }

    fn seal_in_place(
        &mut self,
        nonce: &[u8],
        aad: &[u8],
        plaintext_and_ciphertext: &mut [u8],
        tag_out: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.cipher.seal_in_place(nonce, aad, plaintext_and_ciphertext, tag_out)
    }

    fn open_in_place(
        &mut self,
        nonce: &[u8],
        aad: &[u8],
        ciphertext_and_plaintext: &mut [u8],
        tag: &[u8],
    ) -> Result<(), CryptoError> {
        self.cipher.open_in_place(nonce, aad, ciphertext_and_plaintext, tag)?;
        let content_type = aad.get(SEALED_CONTENT_TYPE).copied();
        self.association.on_opened(content_type, ciphertext_and_plaintext)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Were another value of that length drawn, it would be the cookie.
    #[test]
    fn only_the_cookie_is_not_drawn_anew() {
        let crypto = AssociationCrypto::new([7; COOKIE_BYTES]);
        for len in 0..=64 {
            let mut drawn = vec![0; len];
            crypto.random().fill(&mut drawn).unwrap();
            assert_eq!(drawn == vec![7; len], len == COOKIE_BYTES || len == 0, "{len}");
        }
    }

    #[test]
    fn signature_that_was_found_valid_is_not_another_one() {
        let scheme = SignatureScheme::EcdsaP256Sha256;
        let crypto = AssociationCrypto::new([0; COOKIE_BYTES]);
        let key = crypto.crypto().generate_signing_key(scheme).unwrap();
        let signature = key.sign(scheme, b"message").unwrap();
        for _ in 0..2 {
            let check = |message, signature| {
                crypto.crypto().verify_signature(scheme, key.public_key(), message, signature)
            };
            assert_eq!(check(b"message", &signature), Ok(()));
            assert!(check(b"another", &signature).is_err());
            assert!(check(b"message", &signature[..signature.len() - 1]).is_err());
        }
    }

    #[test]
    fn finished_must_fit_the_handshake() {
        let secret = [9; 48];
        let hash = digest::digest(&digest::SHA256, b"handshake");
        let right = verify_data(&secret, b"client finished", hash.as_ref());
        let mut message = vec![kind::FINISHED, 0, 0, 12, 0, 5, 0, 0, 0, 0, 0, 12];
        message.extend_from_slice(&right);
        let crypto = AssociationCrypto::new([0; COOKIE_BYTES]);
        let mut mac = crypto.crypto().new_hmac(HmacAlgorithm::Sha256, &secret).unwrap();
        mac.sign(&[b"key expansion and randoms"], &mut [0; 32]).unwrap();
        crypto.expect_finished(b"handshake");
        assert_eq!(crypto.on_opened(Some(content::HANDSHAKE), &message), Ok(()));
        assert_eq!((crypto.finished(), crypto.opened()), (Finished::Fits, 1));
        crypto.expect_finished(b"another handshake");
        let refused = Err(CryptoError::AuthenticationFailed);
        assert_eq!(crypto.on_opened(Some(content::HANDSHAKE), &message), refused);
        assert_eq!((crypto.finished(), crypto.opened()), (Finished::Differs, 1));
        assert_eq!(crypto.on_opened(Some(content::ALERT), &[2, 0]), Ok(()));
    }
}
