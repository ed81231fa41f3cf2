//! scratch
use portcullis_lab::linux::*;
#[test]
fn scratch() {
    let spec = std::env::var("LX").unwrap_or("v6.6|||i2r1c1.own.platform.dt.v3.a1".into());
    let mut f = spec.split('|');
    let base = f.next().unwrap();
    let ap: Vec<&str> = f.next().unwrap().split_whitespace().collect();
    let rv: Vec<&str> = f.next().unwrap().split_whitespace().collect();
    let world: World = f.next().unwrap().parse().unwrap();
    let p = Protocol::parse(base, &ap, &rv).unwrap();
    let r = check(&p, &world, Budget::default(), &mut |_| {}).unwrap();
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
