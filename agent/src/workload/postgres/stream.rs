//! The way the bytes take to a server: its Unix socket, TCP, or TLS over TCP.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, StreamOwned};

use super::connection::{Address, Way};
use super::error::PostgresError;
use super::peer::listener;
use crate::config::SslMode;

type Result<T> = std::result::Result<T, PostgresError>;

/// A server that says nothing for so long is given up: longer than any checkpoint that is asked to hurry.
const SILENCE_LIMIT: Duration = Duration::from_secs(1800);

/// An open way.
pub(super) enum Stream {
    /// The socket of this machine.
    Unix(UnixStream),
    /// TCP that others on the way can read.
    Tcp(TcpStream),
    /// TCP that they cannot read.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Opens the way as `address` wants it.
    pub(super) fn open(address: &Address) -> Result<Self> {
        let unreachable = |cause| PostgresError::Unreachable { server: address.server(), cause };
        match &address.way {
            Way::Socket(folder) => {
                let stream = UnixStream::connect(folder.join(address.socket_name()));
                let stream = stream.map_err(unreachable)?;
                stream.set_read_timeout(Some(SILENCE_LIMIT)).map_err(unreachable)?;
                Ok(Self::Unix(stream))
            }
            Way::Host(host) => {
                let stream = TcpStream::connect((host.as_str(), address.port));
                let stream = stream.map_err(unreachable)?;
                stream.set_read_timeout(Some(SILENCE_LIMIT)).map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                match address.sslmode {
                    SslMode::Disable => Ok(Self::Tcp(stream)),
                    SslMode::Require | SslMode::VerifyFull => secured(stream, host, address),
                }
            }
        }
    }

    /// Returns what ends it from another thread.
    pub(super) fn closer(&self) -> io::Result<Closer> {
        Ok(match self {
            Self::Unix(stream) => Closer::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Closer::Tcp(stream.try_clone()?),
            Self::Tls(stream) => Closer::Tcp(stream.sock.try_clone()?),
        })
    }

    /// Returns the process that listens at the other end, if it runs on this machine and is known.
    pub(super) fn peer(&self) -> Option<i32> {
        match self {
            Self::Unix(stream) => listener(stream),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// Reads what has come.
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(room),
            Self::Tcp(stream) => stream.read(room),
            Self::Tls(stream) => stream.read(room),
        }
    }

    /// Sends all of it.
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// Ends a way while somebody waits for what comes.
#[derive(Debug)]
pub(super) enum Closer {
    /// The socket of this machine.
    Unix(UnixStream),
    /// TCP, whatever is inside.
    Tcp(TcpStream),
}

impl Closer {
    /// Nothing more comes or goes.
    pub(super) fn close(&self) {
        // It may have ended by itself.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

// Asks the server for TLS, and never goes on without it.
fn secured(mut stream: TcpStream, host: &str, address: &Address) -> Result<Stream> {
    let broken = |cause| PostgresError::Broken { server: address.server(), cause };
    let mut question = BytesMut::new();
    frontend::ssl_request(&mut question);
    stream.write_all(&question).map_err(broken)?;
    // One byte and no more: what follows in the clear could be anybody's.
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(broken)?;
    if answer != [b'S'] {
        return Err(PostgresError::NoTls { server: address.server() });
    }
    let untrusted = |cause: io::Error| PostgresError::Tls { server: address.server(), cause };
    let name = ServerName::try_from(host.to_string());
    let name = name.map_err(|error| untrusted(io::Error::other(error)))?;
    let config = Arc::new(client(address)?);
    let session = ClientConnection::new(config, name);
    let mut session = session.map_err(|error| untrusted(io::Error::other(error)))?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(untrusted)?;
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(session, stream))))
}

fn client(address: &Address) -> Result<ClientConfig> {
    let failed = |error: rustls::Error| PostgresError::Tls {
        server: address.server(),
        cause: io::Error::other(error),
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    Ok(match address.sslmode {
        SslMode::VerifyFull => {
            let roots = roots(address.sslrootcert.as_deref(), address)?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        SslMode::Require | SslMode::Disable => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth(),
    })
}

fn roots(file: Option<&Path>, address: &Address) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let unreadable = |cause: io::Error| PostgresError::File {
                action: "read the certificates in",
                path: file.to_path_buf(),
                cause,
            };
            let found = CertificateDer::pem_file_iter(file);
            for certificate in found.map_err(|error| unreadable(io::Error::other(error)))? {
                let certificate =
                    certificate.map_err(|error| unreadable(io::Error::other(error)))?;
                roots.add(certificate).map_err(|error| unreadable(io::Error::other(error)))?;
            }
        }
        None => {
            // One that cannot be read is none; whether the others do is seen when the server shows its own.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "there is no trusted certificate");
        return Err(PostgresError::Tls { server: address.server(), cause });
    }
    Ok(roots)
}

// Takes any certificate, as `require` says; that the server has its key is still proved.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
