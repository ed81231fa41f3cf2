//! The qtest and QMP connections against servers of our own that say what QEMU would, or what it never should.

use portcullis_qemu::pci::{Bdf, ConfigAccess, ConfigSpace};
use portcullis_qemu::{ErrorKind, Interrupt, Qmp, QomPath, Qtest, Request, Width};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const BOUND: Duration = Duration::from_millis(300);

/// A server that answers each line with what `answer` makes of it, and returns the lines it saw. An empty answer ends it.
fn server(
    mut answer: impl FnMut(&str) -> String + Send + 'static,
) -> (UnixStream, JoinHandle<Vec<String>>) {
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let thread = std::thread::spawn(move || {
        let mut writer = theirs.try_clone().expect("second handle");
        let mut seen = Vec::new();
        for line in BufReader::new(theirs).lines() {
            let Ok(line) = line else { break };
            let reply = answer(&line);
            seen.push(line);
            if reply.is_empty() || writer.write_all(reply.as_bytes()).is_err() {
                break;
            }
        }
        seen
    });
    (ours, thread)
}

fn qtest(answer: &'static str) -> Qtest {
    Qtest::new(server(move |_| answer.to_owned()).0, BOUND)
}

#[test]
fn every_request_is_one_well_formed_line() {
    let (socket, thread) = server(|line| match line.split(' ').next() {
        Some("readl" | "readq" | "inl") => "OK 0x0000000000000007\n".to_owned(),
        Some("endianness") => "OK little\n".to_owned(),
        _ => "OK\n".to_owned(),
    });
    let qtest = Qtest::new(socket, BOUND);
    let path = QomPath::new("/machine/unattached/device[3]").expect("plain path");
    let requests = [
        Request::Read(Width::Long, 0x905_0000),
        Request::Read(Width::Quad, u64::MAX),
        Request::Write(Width::Byte, 1, 0x1ff),
        Request::Write(Width::Quad, 0, u64::MAX),
        Request::In(Width::Quad, 0xcfc),
        Request::Out(Width::Word, 0xcf8, 0x1_2345),
        Request::InterceptInputs(path.clone()),
        Request::InterceptOutputs(path),
        Request::Endianness,
    ];
    assert_eq!(qtest.pipeline(&requests).expect("all answered"), [7, 7, 0, 0, 7, 0, 0, 0, 0]);
    drop(qtest);
    assert_eq!(
        thread.join().expect("server"),
        [
            "readl 0x9050000",
            "readq 0xffffffffffffffff",
            "writeb 0x1 0xff",
            "writeq 0x0 0xffffffffffffffff",
            "inl 0xcfc",
            "outw 0xcf8 0x2345",
            "irq_intercept_in /machine/unattached/device[3]",
            "irq_intercept_out /machine/unattached/device[3] sysbus-irq",
            "endianness",
        ]
    );
}

#[test]
fn paths_that_would_break_a_line_do_not_exist() {
    for bad in ["", "machine", "/a b", "/a\nquit", "/a\t", "/ä"] {
        assert_eq!(QomPath::new(bad), None, "{bad:?}");
    }
}

#[test]
fn silence_ends_in_time_and_is_remembered() {
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let qtest = Qtest::new(ours, BOUND);
    let error = qtest.request(&Request::Read(Width::Long, 0x1000)).expect_err("nobody answers");
    assert!(matches!(&error, ErrorKind::Timeout { what, after }
        if what == "readl 0x1000" && *after == BOUND));
    let again = qtest.request(&Request::Endianness).expect_err("out of step");
    assert!(matches!(&again, ErrorKind::Lost { first } if first.contains("readl 0x1000")));
    drop(qtest);
    let sent: Vec<_> = BufReader::new(theirs).lines().map_while(Result::ok).collect();
    assert_eq!(sent, ["readl 0x1000"], "what cannot be answered any more is not asked");
}

#[test]
fn answers_that_are_none_are_named() {
    for answer in [
        "OK 0xzz\n",
        "OK 7\n",
        "OK\n",
        "OK 0x\n",
        "OK 0x1ffffffffffffffff\n",
        "\n",
        "hello\n",
        "IRQ raise x\n",
        "IRQ shine 3\n",
        "OK \u{fffd}\n",
    ] {
        let error = qtest(answer).request(&Request::Read(Width::Long, 0)).expect_err("malformed");
        assert!(matches!(error, ErrorKind::Malformed { .. }), "{answer:?}: {error}");
    }
    let error = qtest("OK 0x1\n").request(&Request::Write(Width::Long, 0, 0)).expect_err("words");
    assert!(matches!(error, ErrorKind::Malformed { .. }), "{error}");
}

#[test]
fn a_closed_connection_is_told_from_silence() {
    let error = qtest("").request(&Request::Endianness).expect_err("closed");
    assert!(matches!(error, ErrorKind::Closed { .. }), "{error}");
}

#[test]
fn a_line_without_end_is_cut_off() {
    let long = "x".repeat(5 << 20);
    let (socket, _thread) = server(move |_| long.clone());
    let error = Qtest::new(socket, Duration::from_secs(10))
        .request(&Request::Endianness)
        .expect_err("endless");
    assert!(matches!(error, ErrorKind::Malformed { .. }), "{error}");
}

#[test]
fn a_refusal_leaves_the_connection_in_step() {
    let (socket, _thread) = server(|line| match line.strip_prefix("readl ") {
        Some("0x1") => "FAIL Unknown command 'readl'\n".to_owned(),
        Some(address) => format!("OK {address}\n"),
        None => "ERR no\n".to_owned(),
    });
    let qtest = Qtest::new(socket, BOUND);
    let read = |address| Request::Read(Width::Long, address);
    let error = qtest.pipeline(&[read(5), read(1), read(6)]).expect_err("one refused");
    assert!(matches!(&error, ErrorKind::Refused { answer, .. } if answer.starts_with("FAIL")));
    assert_eq!(qtest.request(&read(7)).expect("in step"), 7);
}

#[test]
fn interrupts_may_come_before_any_answer() {
    let (socket, _thread) =
        server(|_| "IRQ raise 74\nIRQ lower 74\nIRQ raise 77\nOK 0x1\n".to_owned());
    let qtest = Qtest::new(socket, BOUND);
    assert_eq!(qtest.request(&Request::Read(Width::Long, 0)).expect("answer"), 1);
    let change = |line, raised| Interrupt { line, raised };
    assert_eq!(qtest.take_interrupts(), [change(74, true), change(74, false), change(77, true)]);
    assert_eq!(qtest.take_interrupts(), []);
}

#[test]
fn threads_share_a_connection_without_mixing_answers() {
    let (socket, _thread) = server(|line| {
        let address = line.split(' ').nth(1).unwrap_or("?").to_owned();
        format!("OK {address}\n")
    });
    let qtest = Qtest::new(socket, Duration::from_secs(10));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let qtest = &qtest;
            scope.spawn(move || {
                for address in (0..200).map(|index| thread << 32 | index) {
                    let value = qtest.request(&Request::Read(Width::Quad, address));
                    assert_eq!(value.expect("answer"), address);
                }
            });
        }
    });
}

#[test]
fn the_pc_reaches_configuration_space_by_two_ports() {
    let mut selected = String::new();
    let (socket, thread) = server(move |line| match line.split(' ').collect::<Vec<_>>()[..] {
        ["outl", "0xcf8", address] => {
            selected = address.to_owned();
            "OK\n".to_owned()
        }
        ["inl", "0xcfc"] => format!("OK {selected}\n"),
        ["outl", "0xcfc", _] => "OK\n".to_owned(),
        _ => "FAIL\n".to_owned(),
    });
    let config = ConfigSpace::new(&Arc::new(Qtest::new(socket, BOUND)), ConfigAccess::Ports);
    let function = Bdf::new(1, 2, 3);
    assert_eq!(config.read(function, 0x10).expect("answer"), 0x8001_1310);
    // Part of a register, and one that the ports do not reach.
    let part = |offset, width| portcullis_pci::ConfigSpace::read(&config, function, offset, width);
    assert_eq!(part(0x12, portcullis_pci::Width::Word).expect("answer"), 0x8001);
    assert_eq!(part(0x11, portcullis_pci::Width::Byte).expect("answer"), 0x13);
    assert_eq!(part(0x100, portcullis_pci::Width::Word).expect("answer"), 0xffff);
    config.write(function, 0x10, 0xe000_0000).expect("answer");
    drop(config);
    let seen = thread.join().expect("server");
    assert_eq!(seen[seen.len() - 2..], ["outl 0xcf8 0x80011310", "outl 0xcfc 0xe0000000"]);
}

#[test]
fn the_monitor_skips_events_and_reports_refusals() {
    let (socket, thread) = UnixStream::pair().expect("socket pair");
    let server = std::thread::spawn(move || {
        let mut writer = thread.try_clone().expect("second handle");
        let mut lines = BufReader::new(thread).lines();
        let greeting = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
        writer.write_all(greeting.as_bytes()).expect("room");
        for reply in [
            "{\"return\": {}}\r\n",
            "{\"event\": \"STOP\"}\r\n{\"return\": [{\"name\": \"a\", \"type\": \"child<edu>\"}]}\r\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such path\"}}\r\n",
            "{\"return\": {}}\r\n{\"event\": \"RESET\"}\r\n",
            "not json\r\n",
        ] {
            lines.next().expect("a request").expect("readable");
            writer.write_all(reply.as_bytes()).expect("room");
        }
    });
    let qmp = Qmp::new(socket, BOUND).expect("greeting");
    let path = QomPath::new("/machine").expect("plain path");
    let list = qmp.list(&path).expect("list");
    assert_eq!((list[0].name.as_str(), list[0].kind.as_str()), ("a", "child<edu>"));
    let refused = qmp.get(&path, "nothing").expect_err("refused");
    assert!(matches!(&refused, ErrorKind::Refused { answer, .. } if answer == "no such path"));
    qmp.execute_and_await("system_reset", serde_json::json!({}), "RESET").expect("reset");
    let malformed = qmp.list(&path).expect_err("no JSON");
    assert!(matches!(malformed, ErrorKind::Malformed { .. }), "{malformed}");
    server.join().expect("server");
}
