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
    let r = match check(&p, &world, Budget::for_world(&world), &mut |_| {}) { Ok(r) => r, Err(e) => { println!("ERR {spec} {e}"); continue } };
    println!("{} {} {:?} {:?} healthy={}", r.protocol, r.world, r.verdict, r.explored, r.healthy.is_some());
    for v in &r.violations {
        println!("== {} {:?} {} steps={} shortest={} msg={:?}", v.property, v.bad_end, v.name, v.trace.steps.len(), v.shortest, v.message);
        if std::env::var("TRACE").is_ok_and(|n| n == "all" || n == v.name) {
            for s in &v.trace.steps {
                let ch: Vec<String> = s.report.changes.iter().map(|c| format!("{}:{}->{}", c.field, c.before, c.after)).collect();
                println!("  {}| {}: {} ({}) | {:?} {} {:?}", s.thread, s.label.functions.last().unwrap_or(&""), s.label.what, s.label.why, s.report.observed, ch.join("; "), s.report.notes);
            }
        }
    }
}
}

#[test]
fn matrix() {
    let t = std::time::Instant::now();
    let m = compare(None, comparison_worlds(), None, &|_, _| {}).unwrap();
    for (p, row) in m.protocols.iter().zip(&m.rows) {
        for ((name, _), c) in m.worlds.iter().zip(row) {
            let r = &c.report;
            let v: Vec<String> = r.violations.iter().map(|v| format!("{}/{}:{}({}){}", v.property, v.bad_end.unwrap_or("-"), v.name, v.trace.steps.len(), if v.shortest {""} else {"~"})).collect();
            println!("{:10} {:18} {} st={} {:.2}s {} {}", p.to_string(), name, if r.explored.exhaustive {"exh"} else {"PART"}, r.explored.states, r.explored.seconds, if r.healthy.is_some() {""} else {"UNHEALTHY"}, v.join(" "));
        }
    }
    println!("{:?}", t.elapsed());
}
#[test]
fn close() {
    let spec = std::env::var("LX").unwrap_or_default();
    for spec in spec.split(';') {
        let f: Vec<&str> = spec.split('|').collect();
        let ap: Vec<&str> = f[1].split_whitespace().collect();
        let rv: Vec<&str> = f[2].split_whitespace().collect();
        let w: World = f[3].parse().unwrap();
        let r = check(&Protocol::parse(f[0], &ap, &rv).unwrap(), &w, Budget::for_world(&w), &mut |_| {}).unwrap();
        let t = std::time::Instant::now();
        let c = closers(&r, None).unwrap();
        println!("{spec} {:?}", t.elapsed());
        for s in &c.clean { println!("   clean: {}", s.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ")); }
        for (id, ch) in &c.by_property { println!("   {:?}: {}", id, ch.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")); }
    }
}
