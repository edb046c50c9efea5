//! As much of a client of HTTP/1.1 as the series of requests need: one connection, kept, one request at a time.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::drive::Ask;

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn open(port: u16) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client { stream: BufReader::new(stream), port })
    }

    pub(super) fn local_port(&self) -> Result<u16> {
        Ok(self.stream.get_ref().local_addr()?.port())
    }

    pub(super) fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        let Ask { method, target, headers, body } = ask;
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", self.port);
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || *method != "GET" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.stream.get_mut().write_all(text.as_bytes())?;
        self.answer().with_context(|| format!("{method} {target}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("closed before the end");
        }
        Ok(line.trim_end().to_owned())
    }

    fn answer(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.with_context(|| format!("no status in {first:?}"))?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            is_chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let mut body = Vec::new();
        if status == 204 || status == 304 {
            return Ok(Answer { status, body });
        }
        if !is_chunked {
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
            return Ok(Answer { status, body });
        }
        loop {
            let line = self.line()?;
            let n = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
                .with_context(|| format!("length of a chunk: {line:?}"))?;
            let at = body.len();
            body.resize(at + n, 0);
            self.stream.read_exact(&mut body[at..])?;
            self.line()?;
            if n == 0 {
                return Ok(Answer { status, body });
            }
        }
    }
}
