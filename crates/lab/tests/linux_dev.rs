//! scratch
use portcullis_lab::linux::*;
#[test]
fn scratch() {
    let all = std::env::var("LX").unwrap_or("v6.6|||i2r1c1.own.platform.dt.v3.a1".into());
    for spec in all.split(';') {
    let mut f = spec.split('|');
    let base = f.next().unwrap();
    let ap: Vec<&str> = f.next().unwrap().split_whitespace().collect();
    let rv: Vec<&str> = f.next().unwrap().split_whitespace().collect();
    let world: World = f.next().unwrap().parse().unwrap();
    let p = Protocol::parse(base, &ap, &rv).unwrap();
    let r = match check(&p, &world, Budget::default(), &mut |_| {}) { Ok(r) => r, Err(e) => { println!("ERR {spec} {e}"); continue } };
    println!("{} {} {:?} {:?} healthy={}", r.protocol, r.world, r.verdict, r.explored, r.healthy.is_some());
    for v in &r.violations {
        println!("== {} {:?} {} steps={} shortest={} msg={:?}", v.property, v.bad_end, v.name, v.trace.steps.len(), v.shortest, v.message);
        if std::env::var("TRACE").is_ok_and(|n| n == "all" || n == v.name) {
            for s in &v.trace.steps {
                let ch: Vec<String> = s.report.changes.iter().map(|c| format!("{}:{}->{}", c.field, c.before, c.after)).collect();
                println!("  {} | {:?} {} {:?}", s.label, s.report.observed, ch.join("; "), s.report.notes);
            }
        }
    }
}
}

#[test]
fn matrix() {
    let t = std::time::Instant::now();
    let m = compare(None, comparison_worlds(), Budget::default(), &|_, _| {}).unwrap();
    for (p, row) in m.protocols.iter().zip(&m.rows) {
        for ((name, _), c) in m.worlds.iter().zip(row) {
            let r = &c.report;
            let v: Vec<String> = r.violations.iter().map(|v| format!("{}/{}:{}({}){}", v.property, v.bad_end.unwrap_or("-"), v.name, v.trace.steps.len(), if v.shortest {""} else {"~"})).collect();
            println!("{:10} {:18} {} st={} {:.2}s {} {}", p.to_string(), name, if r.explored.exhaustive {"exh"} else {"PART"}, r.explored.states, r.explored.seconds, if r.healthy.is_some() {""} else {"UNHEALTHY"}, v.join(" "));
        }
    }
    println!("{:?}", t.elapsed());
}
