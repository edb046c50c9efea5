//! How fast a packet capture is read: `capture_speed MEGABYTES RUNS`, a line of JSON for each run.
//!
//! It writes a capture of HTTP/1 with keep-alive into $TMPDIR first: 64 connections in turns, each request in a packet of its own, each response of
//! some 1.2 kB in another, an acknowledgement behind each. A run is what `txray replay` does with it until the transactions are there: file,
//! layers, order, parser, pairing, watermark; no sink.

use std::{
    error::Error,
    fs::File,
    hint::black_box,
    io::{BufWriter, Write},
    path::PathBuf,
    time::Instant,
};

use etherparse::PacketBuilder;
use tracer_user::{
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    source::{Source as _, pcap::PcapSource},
};

const CONNS: u16 = 64;
/// Virtual time between packets.
const STEP_NS: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let number =
        |n: usize, default| std::env::args().nth(n).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (megabytes, runs): (u64, u64) = (number(1, 100), number(2, 5));
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bench.pcap");
    let mut capture = Capture::create(&path)?;
    capture.write(megabytes * 1_000_000)?;
    let Capture { file, bytes, packets, requests, .. } = capture;
    file.into_inner()?;
    for _ in 0..runs {
        let began = Instant::now();
        let n = read(&path)?;
        let seconds = began.elapsed().as_secs_f64();
        assert!(n == requests, "{n} transactions of {requests}");
        println!(
            "{{\"mb_per_second\":{:.1},\"packets_per_second\":{:.0},\"bytes\":{bytes},\"packets\":{packets},\"requests\":{requests}}}",
            bytes as f64 / seconds / 1e6,
            packets as f64 / seconds,
        );
    }
    Ok(())
}

/// Transactions that were answered.
fn read(path: &PathBuf) -> Result<u64, Box<dyn Error>> {
    let mut source = PcapSource::open(std::slice::from_ref(path))?;
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    let mut n = 0;
    while let Some(batch) = source.next_batch()? {
        for event in &batch.events {
            pipeline.push(event);
        }
        n += black_box(pipeline.drain()).transactions.len() as u64;
    }
    n += black_box(pipeline.finish()).transactions.iter().filter(|row| row.is_finished()).count() as u64;
    Ok(n)
}

struct Capture {
    file: BufWriter<File>,
    /// Next sequence numbers of each connection: its client's and its server's.
    next: Vec<[u32; 2]>,
    time_ns: u64,
    bytes: u64,
    packets: u64,
    requests: u64,
}

impl Capture {
    fn create(path: &PathBuf) -> Result<Capture, Box<dyn Error>> {
        let mut file = BufWriter::new(File::create(path)?);
        // pcap with nanoseconds, of Ethernet.
        for word in [0xa1b2_3c4d_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
            file.write_all(&word.to_le_bytes())?;
        }
        let next = vec![[1_000, 2_000]; usize::from(CONNS)];
        Ok(Capture { file, next, time_ns: 1_790_000_000_000_000_000, bytes: 24, packets: 0, requests: 0 })
    }

    /// Whole exchanges, until so many bytes are there.
    fn write(&mut self, bytes: u64) -> Result<(), Box<dyn Error>> {
        let body = [b'b'; 1_000];
        for conn in 0..CONNS {
            self.packet(conn, 0, "S", b"")?;
            self.packet(conn, 1, "S.", b"")?;
            self.packet(conn, 0, ".", b"")?;
        }
        while self.bytes < bytes {
            for conn in 0..CONNS {
                let id = self.requests;
                self.requests += 1;
                let ask = format!(
                    "GET /product/{id}?page=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n"
                );
                self.packet(conn, 0, ".", ask.as_bytes())?;
                self.packet(conn, 1, ".", b"")?;
                let head = format!(
                    "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/html\r\nContent-Length: {}\r\nETag: \"{id:016x}\"\r\n\r\n",
                    body.len()
                );
                self.packet(conn, 1, ".", &[head.as_bytes(), &body].concat())?;
                self.packet(conn, 0, ".", b"")?;
            }
        }
        Ok(())
    }

    fn packet(&mut self, conn: u16, from: usize, flags: &str, payload: &[u8]) -> Result<(), Box<dyn Error>> {
        let next = &mut self.next[usize::from(conn)];
        let ports = [20_000 + conn, 80];
        let ends = [[10, 0, 0, 1], [10, 0, 0, 2]];
        let mut tcp = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ends[from], ends[1 - from], 64).tcp(
            ports[from],
            ports[1 - from],
            next[from],
            60_000,
        );
        if flags.contains('S') {
            tcp = tcp.syn();
        }
        if flags.contains('.') {
            tcp = tcp.ack(next[1 - from]);
        }
        // Options of the length that Linux sends.
        let tcp = tcp.options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])?;
        let mut frame = Vec::with_capacity(tcp.size(payload.len()));
        tcp.write(&mut frame, payload)?;
        let more = payload.len() as u32 + u32::from(flags.contains('S'));
        next[from] = next[from].wrapping_add(more);
        let (seconds, parts) = (self.time_ns / 1_000_000_000, self.time_ns % 1_000_000_000);
        for word in [seconds as u32, parts as u32, frame.len() as u32, frame.len() as u32] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(&frame)?;
        self.time_ns += STEP_NS;
        self.bytes += 16 + frame.len() as u64;
        self.packets += 1;
        Ok(())
    }
}
