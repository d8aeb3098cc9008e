//! Certificates made for one test, and both ends of TLS that trust nothing else.

use crate::client::{Answer, Ending};
use crate::http::WireReader;
use crate::{Request, within_patience};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsConnector, client};

/// A self-signed certificate for the names it was made for.
pub struct TestCertificate {
    cert: String,
    key: String,
}

impl TestCertificate {
    pub fn of(names: &[&str]) -> TestCertificate {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("names a certificate may have");
        TestCertificate {
            cert: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    /// Writes `cert.pem` and `key.pem`, and answers where.
    pub fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&cert, &self.cert).expect("a writable folder");
        std::fs::write(&key, &self.key).expect("a writable folder");
        (cert, key)
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("just made")
    }

    /// A server that shows this certificate and speaks HTTP/1.1.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("just made");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key)
            .expect("a pair that belongs together");
        Arc::new(config)
    }

    /// A connection that trusts this certificate alone and offers `protocols` by ALPN.
    pub async fn connect(
        &self,
        peer: SocketAddr,
        protocols: &[&str],
    ) -> client::TlsStream<TcpStream> {
        let mut trusted = RootCertStore::empty();
        trusted
            .add(self.der())
            .expect("a certificate just made is well formed");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = within_patience("a connection", TcpStream::connect(peer))
            .await
            .expect("the gateway listens");
        stream
            .set_nodelay(true)
            .expect("a fresh socket takes options");
        let name = ServerName::try_from("localhost").expect("a name");
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within_patience("a TLS handshake", handshake)
            .await
            .expect("the gateway shows the certificate of its files")
    }

    /// One HTTP/1.1 request over TLS, on a connection of its own.
    pub async fn send_http1(&self, peer: SocketAddr, request: &Request) -> Answer {
        let stream = self.connect(peer, &["http/1.1"]).await;
        let (read, mut write) = split(stream);
        let sent_at = Instant::now();
        let mut bytes = request.head_bytes(peer);
        bytes.extend_from_slice(&request.body);
        write.write_all(&bytes).await.expect("the gateway reads");
        write.flush().await.expect("the gateway reads");
        let mut reader = WireReader::new(read);
        let head = within_patience("an answer head", reader.head())
            .await
            .expect("readable")
            .expect("a head");
        let status = head
            .start_line
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .expect("a status");
        let framing = head.answer_framing(&request.method, status);
        let read = within_patience("an answer's body", reader.body(framing)).await;
        let (body, ending) = match read {
            Ok(body) => (body, Ending::Whole),
            Err(_) => (Vec::new(), Ending::Cut),
        };
        Answer {
            status,
            head,
            pieces: vec![(Instant::now(), body.clone())],
            body,
            ending,
            sent_at,
            ended_at: Instant::now(),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
