//! The workloads of the load client, a function for each mode. Each ends in one JSON line.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::check::Expect;
use crate::engine::{After, Engine, Plan, Send, Step, Tally};
use crate::options::{Options, Via};
use crate::pattern;

/// The connections under test, and the fast traffic beside them.
const MAIN: usize = 0;
const FAST: usize = 1;
const READERS: usize = 2;
const GROUPS: usize = 3;

/// Connections opened at a time where many stay, so that no backlog overflows.
const WAVE: usize = 128;

/// Nothing here takes longer, except as long as the command line asks for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Content of a bulk transfer in modes that need an endless one: 16 GiB.
const ENDLESS: u64 = 16 << 30;

/// The phase of the streams of `fairness`: alone, beside the small messages, at the end.
const ALONE: u8 = 0;
const BESIDE: u8 = 1;
const OVER: u8 = 2;

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let mut session = Session { options, engine: Engine::new(GROUPS)? };
    let mut report = match options.mode.as_str() {
        "keepalive" => session.requests(vec![session.get()], After::Repeat)?,
        "per-connection" => session.requests(vec![session.get()], After::AwaitCloseAndReopen)?,
        "connect" => session.requests(session.tunnel_get(), After::Reopen)?,
        "tcp-relay" => session.requests(vec![session.get_direct()], After::Reopen)?,
        "warm" => session.warm()?,
        "once" => session.once()?,
        "pingpong" => session.pingpong()?,
        "bulk" => session.bulk()?,
        "fairness" => session.fairness()?,
        "idle" => session.idle()?,
        "idle-tunnels" => session.idle_tunnels()?,
        "inflight" => session.inflight()?,
        "drip" => session.drip()?,
        "throttled" => session.throttled()?,
        mode => return Err(io::Error::other(format!("no mode {mode:?}; see --help"))),
    };
    report["mode"] = json!(options.mode);
    println!("{report}");
    Ok(())
}

struct Session<'a> {
    options: &'a Options,
    engine: Engine,
}

/// The results of fast traffic in one measurement.
#[derive(Clone, Copy)]
struct Fast {
    rate: f64,
    p99: f64,
}

impl Session<'_> {
    fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    // Plans

    fn authority(&self) -> String {
        self.options.authority.clone().unwrap_or_else(|| self.options.origin.to_string())
    }

    fn request(&self, target: &str, close: bool, bytes: u64, from: u64) -> Step {
        let close = if close { "Connection: close\r\n" } else { "" };
        let (method, length) = match self.options.post {
            Some(bytes) => ("POST", format!("Content-Length: {bytes}\r\n")),
            None => ("GET", String::new()),
        };
        let host = self.authority();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}{close}\r\n");
        let mut sent = head.into_bytes();
        sent.extend_from_slice(pattern::at(0, self.options.post.unwrap_or(0) as usize));
        let expect = Expect::Content { status: 200, from, bytes };
        Step { send: Send::Head(sent.into()), expect }
    }

    fn path(&self) -> String {
        let framing = if self.options.chunked { "/chunked" } else { "" };
        format!("{framing}/{}", self.options.bytes)
    }

    fn get(&self) -> Step {
        let target = format!("http://{}{}", self.authority(), self.path());
        self.request(&target, self.options.mode == "per-connection", self.options.bytes, 0)
    }

    fn get_direct(&self) -> Step {
        self.request(&self.path(), false, self.options.bytes, 0)
    }

    fn connect(&self, authority: std::net::SocketAddr) -> Step {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        Step { send: Send::Head(head.into_bytes().into()), expect: Expect::Connected }
    }

    fn tunnel_get(&self) -> Vec<Step> {
        vec![self.connect(self.options.origin), self.get_direct()]
    }

    fn message(&self) -> Step {
        let bytes = self.options.bytes;
        Step { send: Send::Message(bytes as usize), expect: Expect::Echo { bytes } }
    }

    fn tunnel_addr(&self) -> std::net::SocketAddr {
        match self.options.via {
            Via::Get | Via::Connect => self.options.proxy,
            Via::Direct => self.options.relay.unwrap_or(self.options.proxy),
        }
    }

    // Pieces

    /// Reports a step to the harness, and waits until the harness has looked.
    fn step(&self, name: &str) -> io::Result<()> {
        if self.options.steps {
            println!("{}", json!({ "step": name }));
            io::stdin().read_line(&mut String::new())?;
        }
        Ok(())
    }

    /// Opens connections in waves and runs until each has completed the plan once.
    fn open_held(&mut self, group: usize, plan: &Rc<Plan>, count: usize) -> io::Result<()> {
        let addr = match self.options.mode.as_str() {
            "idle" | "inflight" | "warm" => self.options.proxy,
            _ => self.tunnel_addr(),
        };
        let mut opened = 0;
        while opened < count {
            let wave = WAVE.min(count - opened);
            self.engine.open(addr, group, plan, wave);
            opened += wave;
            let ended = |e: &Engine| e.tallies[group].done + e.tallies[group].fault_count();
            if !self.engine.run(PATIENCE, |e| ended(e) >= opened as u64)? {
                return Err(io::Error::other(format!("only {} of {opened} opened", opened - wave)));
            }
        }
        Ok(())
    }

    /// Gives held connections a plan and waits until all have completed it. Returns the seconds that took.
    fn all_again(&mut self, group: usize, plan: &Rc<Plan>) -> io::Result<(f64, Tally)> {
        self.engine.reset(group);
        let expected = self.engine.live(group) as u64;
        let began = Instant::now();
        self.engine.assign(group, plan);
        let ended = |e: &Engine| e.tallies[group].done + e.tallies[group].fault_count();
        self.engine.run(PATIENCE, |e| ended(e) >= expected)?;
        Ok((began.elapsed().as_secs_f64(), self.engine.reset(group)))
    }

    /// Plans for tunnels to the echo server: opening one, and a round trip in it.
    fn tunnel_plans(&self, after: After) -> (Rc<Plan>, Rc<Plan>) {
        let mut open = vec![self.message()];
        if self.options.via != Via::Direct {
            open.insert(0, self.connect(self.options.echo));
        }
        (Plan::new(open, After::Hold), Plan::new(vec![self.message()], after))
    }

    /// Fast traffic for a measurement's time, over separate connections.
    fn fast(&mut self) -> io::Result<(Fast, Value)> {
        let target = format!("http://{}/1024", self.options.origin);
        let plan = Plan::new(vec![self.request(&target, false, 1024, 0)], After::Repeat);
        self.engine.open(self.options.proxy, FAST, &plan, self.options.fast);
        let began = Instant::now();
        self.engine.run(self.seconds(), |_| false)?;
        let seconds = began.elapsed().as_secs_f64();
        self.engine.close(FAST);
        let mut tally = self.engine.reset(FAST);
        let fast = Fast {
            rate: tally.done as f64 / seconds,
            p99: percentile(&mut tally.nanos, 0.99) as f64 / 1000.0,
        };
        Ok((fast, errors(&tally)))
    }

    // Modes

    /// Repeats one plan on some connections, for a time or a number.
    fn requests(&mut self, steps: Vec<Step>, after: After) -> io::Result<Value> {
        let options = self.options;
        let plan = Plan::new(steps, after);
        self.engine.tallies[MAIN].budget = options.requests;
        let began = Instant::now();
        let addr = if options.mode == "tcp-relay" {
            options.relay.unwrap_or(options.proxy)
        } else {
            options.proxy
        };
        self.engine.open(addr, MAIN, &plan, options.clients);
        let limit = options.requests.map_or(self.seconds(), |_| PATIENCE);
        self.engine.run(limit, |e| e.live(MAIN) == 0)?;
        Ok(summary(self.engine.reset(MAIN), began.elapsed()))
    }

    /// A number of exchanges on warm connections: the cost of an exchange by itself.
    fn warm(&mut self) -> io::Result<Value> {
        let clients = self.options.clients.max(1);
        let each = self.options.requests.unwrap_or(1000) as usize / clients;
        let exchanges = |count| Plan::new(vec![self.get(); count], After::Hold);
        let (warm, counted) = (exchanges(self.options.warm), exchanges(each));
        self.open_held(MAIN, &warm, clients)?;
        let opening = self.engine.reset(MAIN);
        self.step("opened")?;
        let (_, tally) = self.all_again(MAIN, &counted)?;
        self.step("measured")?;
        let done = tally.done * each as u64;
        Ok(json!({ "done": done, "errors": [errors(&opening), errors(&tally)] }))
    }

    /// Every client asks once, all at the same time. Measures how long the slowest waited.
    fn once(&mut self) -> io::Result<Value> {
        let plan = Plan::new(vec![self.get()], After::Close);
        let began = Instant::now();
        self.engine.open(self.options.proxy, MAIN, &plan, self.options.clients);
        self.engine.run(self.seconds(), |e| e.live(MAIN) == 0)?;
        let unfinished = self.engine.live(MAIN);
        let mut tally = self.engine.reset(MAIN);
        let slowest = percentile(&mut tally.nanos, 1.0) as f64 / 1e9;
        let mut report = summary(tally, began.elapsed());
        report["slowest_seconds"] = json!(slowest);
        report["unfinished"] = json!(unfinished);
        Ok(report)
    }

    fn pingpong(&mut self) -> io::Result<Value> {
        let (open, round_trip) = self.tunnel_plans(After::Repeat);
        self.open_held(MAIN, &open, self.options.clients)?;
        let opening = self.engine.reset(MAIN);
        self.step("opened")?;
        let began = Instant::now();
        self.engine.assign(MAIN, &round_trip);
        self.engine.run(self.seconds(), |_| false)?;
        let elapsed = began.elapsed();
        self.step("measured")?;
        let least = self.engine.conns.iter().flatten().map(|conn| conn.done).min();
        let mut report = summary(self.engine.reset(MAIN), elapsed);
        report["fewest"] = json!(least);
        report["opening_errors"] = errors(&opening);
        Ok(report)
    }

    fn bulk_plan(&self, index: u64, bytes: u64, after: After) -> Rc<Plan> {
        // Each transfer has its own place in the pattern, so that mixed-up flows are found.
        let from = index * 1009;
        let path = match self.options.chunked {
            true => format!("/chunked/{bytes}"),
            false => format!("/from/{from}/{bytes}"),
        };
        let from = if self.options.chunked { 0 } else { from };
        let steps = match self.options.via {
            Via::Get => {
                let target = format!("http://{}{path}", self.options.origin);
                vec![self.request(&target, false, bytes, from)]
            }
            Via::Connect => {
                vec![self.connect(self.options.origin), self.request(&path, false, bytes, from)]
            }
            Via::Direct => vec![self.request(&path, false, bytes, from)],
        };
        Rc::new(Plan { steps, after, pace: None, discards: self.options.discard })
    }

    fn bulk(&mut self) -> io::Result<Value> {
        let addr = self.tunnel_addr();
        let began = Instant::now();
        for index in 0..self.options.clients as u64 {
            let plan = self.bulk_plan(index, self.options.bytes, After::Close);
            self.engine.open(addr, MAIN, &plan, 1);
        }
        self.engine.run(PATIENCE, |e| e.live(MAIN) == 0)?;
        let left = self.engine.live(MAIN);
        let elapsed = began.elapsed();
        let tally = self.engine.reset(MAIN);
        let bytes = tally.bytes;
        let mut report = summary(tally, elapsed);
        report["bytes"] = json!(bytes);
        report["mb_per_s"] = json!(bytes as f64 / 1e6 / elapsed.as_secs_f64());
        report["unfinished"] = json!(left);
        Ok(report)
    }

    /// Small tunnels in `MAIN`, bulk requests in `READERS`; alone first, then together. The streams have a
    /// thread of their own, so that a small message waits for the proxy and not for a client busy with
    /// their bytes.
    fn fairness(&mut self) -> io::Result<Value> {
        let options = self.options;
        let (stage, (ready, is_ready)) = (AtomicU8::new(ALONE), mpsc::channel());
        thread::scope(|scope| {
            let streams = scope.spawn(|| {
                let engine = Engine::new(GROUPS)?;
                Session { options, engine }.streams(&stage, &ready)
            });
            let small = is_ready
                .recv_timeout(PATIENCE)
                .map_err(io::Error::other)
                .and_then(|()| self.small_messages(&stage));
            stage.store(OVER, Ordering::Relaxed);
            let streams = streams.join().map_err(|_| io::Error::other("the streams' thread"))?;
            let (mut report, (alone, beside)) = (small?, streams?);
            report["bulk_alone_mb_per_s"] = json!(alone.1);
            report["bulk_mb_per_s"] = json!(beside.1);
            report["bulk_errors"] = json!([errors(&alone.0), errors(&beside.0)]);
            Ok(report)
        })
    }

    /// Streams, alone for a time and then beside the small messages. Returns the results of each, and MB/s.
    fn streams(
        &mut self,
        stage: &AtomicU8,
        ready: &mpsc::Sender<()>,
    ) -> io::Result<((Tally, f64), (Tally, f64))> {
        for index in 0..self.options.readers as u64 {
            let from = index * 1009;
            let target = format!("http://{}/from/{from}/{ENDLESS}", self.options.origin);
            let plan = Plan::new(vec![self.request(&target, false, ENDLESS, from)], After::Repeat);
            self.engine.open(self.options.proxy, READERS, &plan, 1);
        }
        let measured = |engine: &mut Engine, limit: Duration, until: u8| {
            engine.reset(READERS);
            let began = Instant::now();
            engine.run(limit, |_| stage.load(Ordering::Relaxed) >= until)?;
            let tally = engine.reset(READERS);
            let rate = tally.bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
            io::Result::Ok((tally, rate))
        };
        // Windows open and buffers fill before the counting starts.
        measured(&mut self.engine, Duration::from_millis(300), OVER)?;
        let seconds = self.seconds();
        let alone = measured(&mut self.engine, seconds, OVER)?;
        // Fails only if the measurement has failed and the receiver is gone.
        let _ = ready.send(());
        measured(&mut self.engine, PATIENCE, BESIDE)?;
        Ok((alone, measured(&mut self.engine, PATIENCE, OVER)?))
    }

    fn small_messages(&mut self, stage: &AtomicU8) -> io::Result<Value> {
        let (open, round_trip) = self.tunnel_plans(After::Repeat);
        self.open_held(MAIN, &open, self.options.clients)?;
        self.engine.reset(MAIN);
        stage.store(BESIDE, Ordering::Relaxed);
        let began = Instant::now();
        self.engine.assign(MAIN, &round_trip);
        self.engine.run(self.seconds(), |_| false)?;
        let elapsed = began.elapsed();
        // Less than one round trip a second counts as none.
        let least = elapsed.as_secs_f64();
        let small = self.engine.conns.iter().flatten().filter(|conn| conn.group == MAIN);
        let served = small.filter(|conn| conn.done as f64 >= least).count();
        let mut report = summary(self.engine.reset(MAIN), elapsed);
        report["starved"] = json!(self.options.clients - served);
        Ok(report)
    }

    fn idle(&mut self) -> io::Result<Value> {
        let exchange = Plan::new(vec![self.get()], After::Hold);
        let clients = self.options.clients;
        let (_, warm_errors) = self.fast()?;
        self.step("before")?;
        self.open_held(MAIN, &exchange, clients)?;
        let first = self.engine.reset(MAIN);
        self.step("opened")?;
        let (seconds, second) = self.all_again(MAIN, &exchange)?;
        self.engine.close(MAIN);
        let mut report = self.beside(|session| session.open_held(MAIN, &exchange, clients))?;
        report["first"] = json!(first.done);
        report["second"] = json!(second.done);
        report["second_seconds"] = json!(seconds);
        report["errors"] = json!([warm_errors, errors(&first), errors(&second)]);
        Ok(report)
    }

    fn idle_tunnels(&mut self) -> io::Result<Value> {
        let (open, round_trip) = self.tunnel_plans(After::Hold);
        // One tunnel first, so that one-time allocations are not counted by tunnel.
        self.open_held(READERS, &open, 1)?;
        self.step("before")?;
        self.open_held(MAIN, &open, self.options.clients)?;
        let first = self.engine.reset(MAIN);
        self.step("opened")?;
        let (seconds, mut spoke) = self.all_again(MAIN, &round_trip)?;
        Ok(json!({
            "opened": first.done,
            "answered": spoke.done,
            "answered_seconds": seconds,
            "p99_us": percentile(&mut spoke.nanos, 0.99) as f64 / 1000.0,
            "errors": [errors(&first), errors(&spoke)],
        }))
    }

    /// Requests in flight to a slow origin server, alone, then with fast traffic beside them.
    fn inflight(&mut self) -> io::Result<Value> {
        let slow = format!("http://{}/slow/{}/1024", self.options.origin, self.options.delay);
        let slow = Plan::new(vec![self.request(&slow, false, 1024, 0)], After::Hold);
        let quick = format!("http://{}/1024", self.options.origin);
        let quick = Plan::new(vec![self.request(&quick, false, 1024, 0)], After::Hold);
        let clients = self.options.clients;
        self.open_held(MAIN, &quick, clients)?;
        let opening = self.engine.reset(MAIN);
        let (seconds, tally) = self.all_again(MAIN, &slow)?;
        self.engine.close(MAIN);

        // Beside fast traffic the slow requests repeat endlessly, so that they are always in flight.
        let repeat = Plan::new(slow.steps.clone(), After::Repeat);
        let mut report = self.beside(|session| {
            session.open_held(MAIN, &quick, clients)?;
            session.engine.reset(MAIN);
            session.engine.assign(MAIN, &repeat);
            Ok(())
        })?;
        report["done"] = json!(tally.done);
        report["done_seconds"] = json!(seconds);
        report["errors"] = json!([errors(&opening), errors(&tally)]);
        Ok(report)
    }

    /// Heads that never end and readers that hardly read, with fast traffic beside them.
    fn drip(&mut self) -> io::Result<Value> {
        let options = self.options;
        let head = format!("GET http://{0}/1024 HTTP/1.1\r\nHost: {0}\r\nX: ", options.origin);
        let bytes = [head.into_bytes(), vec![b'x'; 4096]].concat();
        let every = Duration::from_millis(250);
        let dripping = Step { send: Send::Drip(bytes.into(), every), expect: Expect::Refusal };
        let dripping = Plan::new(vec![dripping], After::Close);

        // More than socket buffers hide, and more than is read during the run.
        let size = 64 << 20;
        let target = format!("http://{}/{size}", options.origin);
        let reading = Rc::new(Plan {
            steps: vec![self.request(&target, false, size, 0)],
            after: After::Close,
            pace: Some(options.pace),
            discards: false,
        });
        let mut slow_errors = Vec::new();
        let mut report = self.beside(|session| {
            slow_errors.push(errors(&session.engine.reset(READERS)));
            session.engine.open(options.proxy, READERS, &reading, options.readers);
            session.engine.open(options.proxy, MAIN, &dripping, options.clients);
            // Until the buffers on the way are full.
            session.engine.run(Duration::from_secs(1), |_| false).map(|_| ())
        })?;

        self.engine.reset(MAIN);
        self.engine.open(options.proxy, READERS, &reading, options.readers);
        self.engine.open(options.proxy, MAIN, &dripping, options.clients);
        // Readers are measured once their buffers are full, drippers from their start.
        self.engine.run(Duration::from_secs(1), |_| false)?;
        let read_before = self.reader_bytes();
        let began = Instant::now();
        let limit = Duration::from_secs_f64(options.head_timeout * 2.0 + 2.0);
        self.engine.run(limit, |e| e.live(MAIN) == 0)?;
        let elapsed = began.elapsed().as_secs_f64();
        let due = options.pace as f64 * elapsed * 0.95;
        let mut paces: Vec<f64> = self
            .reader_bytes()
            .iter()
            .map(|(slot, bytes)| (bytes - read_before.get(slot).unwrap_or(&0)) as f64 / due)
            .collect();
        paces.sort_by(f64::total_cmp);
        let kept = paces.iter().filter(|pace| **pace >= 1.0).count();
        let mut dripped = self.engine.reset(MAIN);
        slow_errors.push(errors(&self.engine.reset(READERS)));
        let statuses = dripped.statuses.iter().map(|(status, n)| (status.to_string(), json!(n)));
        report["statuses"] = Value::Object(statuses.collect());
        report["refused_seconds"] = json!(percentile(&mut dripped.nanos, 1.0) as f64 / 1e9);
        report["still_dripping"] = json!(self.engine.live(MAIN));
        report["readers_at_pace"] = json!(kept);
        report["slowest_reader"] = json!(paces.first());
        report["errors"] = json!([errors(&dripped), slow_errors]);
        Ok(report)
    }

    /// Downloads that the proxy slows down, and fast traffic beside them.
    fn throttled(&mut self) -> io::Result<Value> {
        let options = self.options;
        // More than arrives in the time.
        let size = 64 << 20;
        let target = format!("http://{}/{size}", self.authority());
        let reading = Plan::new(vec![self.request(&target, false, size, 0)], After::Repeat);
        // Until the bytes that fill the buffers on the way are through.
        let settle = Duration::from_secs(1);
        let mut report = self.beside(|session| {
            session.engine.open(options.proxy, READERS, &reading, options.clients);
            session.engine.run(settle, |_| false).map(|_| ())
        })?;
        self.engine.reset(READERS);
        self.engine.open(options.proxy, READERS, &reading, options.clients);
        self.engine.run(settle, |_| false)?;
        let (before, began) = (self.reader_bytes(), Instant::now());
        // Each download has several turns in this time.
        self.engine.run(self.seconds().max(Duration::from_secs(10)), |_| false)?;
        let elapsed = began.elapsed().as_secs_f64();
        let after = self.reader_bytes();
        let received = after.iter().map(|(slot, now)| now - before.get(slot).unwrap_or(&0));
        let mut rates: Vec<f64> = received.map(|bytes| bytes as f64 / elapsed).collect();
        rates.sort_by(f64::total_cmp);
        report["bytes_per_s"] = json!(rates.iter().sum::<f64>());
        report["fewest_per_s"] = json!(rates.first());
        report["most_per_s"] = json!(rates.last());
        report["errors"] = errors(&self.engine.reset(READERS));
        Ok(report)
    }

    /// Bytes of content that each reader has received so far, by slot.
    fn reader_bytes(&self) -> BTreeMap<usize, u64> {
        let conns = self.engine.conns.iter().enumerate();
        conns
            .filter_map(|(slot, conn)| Some((slot, conn.as_ref()?)))
            .filter(|(_, conn)| conn.group == READERS)
            .map(|(slot, conn)| (slot, conn.bytes))
            .collect()
    }

    /// Measures fast traffic in pairs, without and with the connections that `open` opens; closes those
    /// each time.
    fn beside(&mut self, mut open: impl FnMut(&mut Self) -> io::Result<()>) -> io::Result<Value> {
        let (mut without, mut with, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.options.pairs {
            let (alone, alone_errors) = self.fast()?;
            open(self)?;
            let (beside, beside_errors) = self.fast()?;
            self.engine.close(MAIN);
            self.engine.close(READERS);
            self.engine.reset(MAIN);
            // The cost of closing thousands of connections belongs to neither measurement.
            self.engine.run(Duration::from_millis(300), |_| false)?;
            without.push(alone);
            with.push(beside);
            faults.push(json!([alone_errors, beside_errors]));
        }
        Ok(json!({
            "fast_rate_without": without.iter().map(|f| f.rate).collect::<Vec<_>>(),
            "fast_rate_with": with.iter().map(|f| f.rate).collect::<Vec<_>>(),
            "fast_p99_us_without": without.iter().map(|f| f.p99).collect::<Vec<_>>(),
            "fast_p99_us_with": with.iter().map(|f| f.p99).collect::<Vec<_>>(),
            "fast_errors": faults,
        }))
    }
}

fn errors(tally: &Tally) -> Value {
    Value::Object(tally.faults.iter().map(|(fault, n)| (fault.name(), json!(n))).collect())
}

fn summary(mut tally: Tally, elapsed: Duration) -> Value {
    json!({
        "done": tally.done,
        "seconds": elapsed.as_secs_f64(),
        "rate": tally.done as f64 / elapsed.as_secs_f64(),
        "p50_us": percentile(&mut tally.nanos, 0.5) as f64 / 1000.0,
        "p99_us": percentile(&mut tally.nanos, 0.99) as f64 / 1000.0,
        "connections": tally.opened,
        "errors": errors(&tally),
    })
}

/// The value below which a fraction of the samples lies; 0 without samples.
fn percentile(nanos: &mut [u64], fraction: f64) -> u64 {
    let Some(last) = nanos.len().checked_sub(1) else { return 0 };
    let at = (last as f64 * fraction).round() as usize;
    *nanos.select_nth_unstable(at).1
}
