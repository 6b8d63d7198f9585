//! A connection to PostgreSQL, for plain questions and for the replication protocol.
//!
//! The messages and the log-in are those of the crate `postgres-protocol`; here is only the order in which they go.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::{backend, frontend};
use zeroize::Zeroizing;

use super::error::PostgresError;
use super::incoming::{HEADER_LENGTH, Incoming, Taken};
use super::stream::{Closer, Stream};
use crate::config::{SslMode, is_own};

type Result<T> = std::result::Result<T, PostgresError>;

/// The kind of a message that holds bytes of a copy.
const COPY_DATA: u8 = b'd';

/// Where a server is and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// The way to it.
    pub(crate) way: Way,
    /// Port; also part of the name of the socket.
    pub(crate) port: u16,
    /// Role.
    pub(crate) user: String,
    /// Its password, if it needs one.
    pub(crate) password: Option<Zeroizing<String>>,
    /// How a TCP connection is protected.
    pub(crate) sslmode: SslMode,
    /// A file with the certificates of the authorities that are trusted.
    pub(crate) sslrootcert: Option<PathBuf>,
}

/// The way to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The folder of its Unix socket.
    Socket(PathBuf),
    /// Host name or address.
    Host(String),
}

impl Address {
    /// Returns the server as it is named to people.
    pub(crate) fn server(&self) -> String {
        match &self.way {
            Way::Socket(folder) => {
                format!("PostgreSQL at {}", folder.join(self.socket_name()).display())
            }
            Way::Host(host) => format!("PostgreSQL at {host}:{}", self.port),
        }
    }

    /// Returns the name of the socket in its folder.
    pub(super) fn socket_name(&self) -> String {
        format!(".s.PGSQL.{}", self.port)
    }

    /// Returns what `-h` of PostgreSQL's own programs wants.
    pub(crate) fn host_argument(&self) -> String {
        match &self.way {
            Way::Socket(folder) => folder.display().to_string(),
            Way::Host(host) => host.clone(),
        }
    }

    // A password in clear, or a hash that can be replayed, must not reach anybody but the server.
    fn is_private(&self) -> bool {
        match &self.way {
            Way::Socket(_) => true,
            Way::Host(host) => is_own(host) || self.sslmode == SslMode::VerifyFull,
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// Physical replication.
    Replication,
    /// Questions to a database.
    Database(&'a str),
}

/// One row of an answer: texts, `None` for null.
pub(crate) type Row = Vec<Option<String>>;

/// What a server says.
pub(crate) enum Said {
    /// A row.
    Row(Row),
    /// Bytes of a copy: where [`Connection::copied`] finds them until the next message is taken.
    Copy(Range<usize>),
    /// The end of a copy.
    CopyEnd,
    /// The end of one result.
    ResultEnd,
    /// It failed.
    Failed {
        /// In its words.
        message: String,
        /// SQLSTATE.
        code: String,
    },
    /// It waits for the next question.
    Ready,
}

/// An open connection; dropping it ends what the server does for it.
pub(crate) struct Connection {
    stream: Stream,
    incoming: Incoming,
    server: String,
    parameters: BTreeMap<String, String>,
}

impl Connection {
    /// Connects and logs in.
    pub(crate) fn open(address: &Address, purpose: Purpose<'_>) -> Result<Self> {
        let server = address.server();
        let stream = Stream::open(address)?;
        let mut connection =
            Self { stream, incoming: Incoming::new(), server, parameters: BTreeMap::new() };
        let mut parameters = vec![
            ("user", address.user.as_str()),
            ("application_name", "keepwell"),
            ("client_encoding", "UTF8"),
        ];
        match purpose {
            Purpose::Replication => parameters.push(("replication", "true")),
            Purpose::Database(name) => parameters.push(("database", name)),
        }
        connection.send(|out| frontend::startup_message(parameters, out))?;
        connection.log_in(address)?;
        Ok(connection)
    }

    /// Returns what ends the connection from another thread.
    pub(super) fn closer(&self) -> Result<Closer> {
        self.stream.closer().map_err(broken(self))
    }

    /// Returns the server's process, if it runs on this machine and is known.
    pub(super) fn peer(&self) -> Option<i32> {
        self.stream.peer()
    }

    /// Returns the server as it is named to people.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Returns what the server says of itself and of this connection under a name, such as `is_superuser`.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Asks one question and returns the rows of all its results.
    pub(crate) fn ask(&mut self, question: &str) -> Result<Vec<Row>> {
        self.start(question)?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.next()? {
                Said::Row(row) => rows.push(row),
                Said::Failed { message, code } => failure = Some((message, code)),
                Said::Ready => break,
                Said::Copy(_) | Said::CopyEnd | Said::ResultEnd => {}
            }
        }
        match failure {
            None => Ok(rows),
            Some((message, code)) => Err(self.refused(message, code)),
        }
    }

    /// Asks a question of one answer.
    pub(crate) fn ask_one(&mut self, question: &str) -> Result<String> {
        let rows = self.ask(question)?;
        let first = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        first.ok_or_else(|| self.unexpected(format!("no answer to {question}")))
    }

    /// Asks a question whose answer is taken with [`Connection::next`].
    pub(crate) fn start(&mut self, question: &str) -> Result<()> {
        self.send(|out| frontend::query(question, out))
    }

    /// Returns what the server says next.
    pub(crate) fn next(&mut self) -> Result<Said> {
        use backend::Message;
        loop {
            let (tag, message) = self.arrive()?;
            if tag == COPY_DATA {
                // By far the most bytes come so: they are used where they lie.
                return Ok(Said::Copy(message.start + HEADER_LENGTH..message.end));
            }
            return Ok(match self.parse(message)? {
                Message::DataRow(body) => Said::Row(self.row(&body)?),
                Message::CopyDone => Said::CopyEnd,
                Message::CommandComplete(_) | Message::EmptyQueryResponse => Said::ResultEnd,
                Message::ErrorResponse(body) => {
                    let (message, code) = self.fields(body.fields());
                    Said::Failed { message, code }
                }
                Message::ReadyForQuery(_) => Said::Ready,
                Message::RowDescription(_)
                | Message::CopyOutResponse(_)
                | Message::NoticeResponse(_)
                | Message::NotificationResponse(_) => continue,
                Message::ParameterStatus(body) => {
                    self.keep_parameter(&body)?;
                    continue;
                }
                _ => return Err(self.unexpected("a message that has no place here".to_string())),
            });
        }
    }

    /// Returns the error for an answer of the server.
    pub(crate) fn refused(&self, message: String, code: String) -> PostgresError {
        PostgresError::Refused { server: self.server.clone(), message, code }
    }

    /// Returns the error for an answer that makes no sense.
    pub(crate) fn unexpected(&self, what: String) -> PostgresError {
        PostgresError::Unexpected { server: self.server.clone(), what }
    }

    fn log_in(&mut self, address: &Address) -> Result<()> {
        use backend::Message;
        loop {
            match self.message()? {
                Message::AuthenticationOk | Message::BackendKeyData(_) => {}
                Message::NoticeResponse(_) => {}
                Message::ParameterStatus(body) => self.keep_parameter(&body)?,
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    let (message, code) = self.fields(body.fields());
                    return Err(self.refused(message, code));
                }
                Message::AuthenticationCleartextPassword => {
                    self.must_be_private(address)?;
                    let password = self.password(address)?;
                    self.send(|out| frontend::password_message(password.as_bytes(), out))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    self.must_be_private(address)?;
                    let password = self.password(address)?;
                    let (user, salt) = (address.user.as_bytes(), body.salt());
                    let hash = authentication::md5_hash(user, password.as_bytes(), salt);
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                Message::AuthenticationSasl(body) => self.log_in_by_scram(address, &body)?,
                _ => {
                    let asks = "asks for a way to log in that is not supported";
                    return Err(PostgresError::Password { server: self.server.clone(), asks });
                }
            }
        }
    }

    fn log_in_by_scram(
        &mut self,
        address: &Address,
        offered: &backend::AuthenticationSaslBody,
    ) -> Result<()> {
        use backend::Message;
        let mechanisms: Vec<String> = offered
            .mechanisms()
            .map(|name| Ok(name.to_string()))
            .collect()
            .map_err(broken(self))?;
        if !mechanisms.iter().any(|name| name == SCRAM_SHA_256) {
            let asks = "asks for a way to log in that is not supported";
            return Err(PostgresError::Password { server: self.server.clone(), asks });
        }
        let password = self.password(address)?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out))?;
        loop {
            match self.message()? {
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data()).map_err(broken(self))?;
                    self.send(|out| frontend::sasl_response(scram.message(), out))?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    // Only a server that knows the password can answer so.
                    return scram.finish(body.data()).map_err(broken(self));
                }
                Message::ErrorResponse(body) => {
                    let (message, code) = self.fields(body.fields());
                    return Err(self.refused(message, code));
                }
                _ => return Err(self.unexpected("a log-in out of order".to_string())),
            }
        }
    }

    fn must_be_private(&self, address: &Address) -> Result<()> {
        if address.is_private() {
            return Ok(());
        }
        let asks = "asks for the password in a form that others on the way could use; set password_encryption = 'scram-sha-256' there, or sslmode = \"verify-full\" here";
        Err(PostgresError::Password { server: self.server.clone(), asks })
    }

    fn password(&self, address: &Address) -> Result<Zeroizing<String>> {
        let asks = "asks for a password; name a file that holds it with password_file";
        let missing = || PostgresError::Password { server: self.server.clone(), asks };
        address.password.clone().ok_or_else(missing)
    }

    fn keep_parameter(&mut self, body: &backend::ParameterStatusBody) -> Result<()> {
        let name = body.name().map_err(broken(self))?.to_string();
        let value = body.value().map_err(broken(self))?.to_string();
        self.parameters.insert(name, value);
        Ok(())
    }

    fn fields(&self, mut fields: backend::ErrorFields<'_>) -> (String, String) {
        let (mut message, mut code) = (String::new(), String::new());
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'M' => message = value,
                b'C' => code = value,
                _ => {}
            }
        }
        (message, code)
    }

    fn row(&self, body: &backend::DataRowBody) -> Result<Row> {
        let buffer = body.buffer();
        let mut ranges = body.ranges();
        let mut row = Vec::new();
        while let Some(range) = ranges.next().map_err(broken(self))? {
            let text = range.map(|range| String::from_utf8_lossy(&buffer[range]).into_owned());
            row.push(text);
        }
        Ok(row)
    }

    fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        // Gone from memory when dropped would be nicer still, but the crate writes into plain bytes; they are wiped by hand.
        let mut out = BytesMut::new();
        let sent = write(&mut out).and_then(|()| self.stream.write_all(&out));
        out.fill(0);
        sent.map_err(broken(self))
    }

    /// Returns the bytes of a [`Said::Copy`], as long as nothing was taken since.
    pub(crate) fn copied(&self, place: Range<usize>) -> &[u8] {
        self.incoming.bytes(place)
    }

    fn message(&mut self) -> Result<backend::Message> {
        let (_, message) = self.arrive()?;
        self.parse(message)
    }

    fn parse(&self, message: Range<usize>) -> Result<backend::Message> {
        let mut bytes = BytesMut::from(self.incoming.bytes(message));
        let parsed = backend::Message::parse(&mut bytes).map_err(broken(self))?;
        parsed.ok_or_else(|| self.unexpected("a message that is shorter than it says".to_string()))
    }

    // Waits until the next message is there; returns its kind and where it lies.
    fn arrive(&mut self) -> Result<(u8, Range<usize>)> {
        loop {
            match self.incoming.take() {
                Taken::Message(tag, place) => return Ok((tag, place)),
                Taken::Malformed => {
                    return Err(self.unexpected("a message of an impossible length".to_string()));
                }
                Taken::Part => {}
            }
            match self.incoming.read(|room| self.stream.read(room)) {
                Ok(0) => return Err(broken(self)(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(self)(error)),
                Ok(_) => {}
            }
        }
    }
}

fn broken(connection: &Connection) -> impl Fn(io::Error) -> PostgresError + use<> {
    let server = connection.server.clone();
    move |cause| PostgresError::Broken { server: server.clone(), cause }
}
