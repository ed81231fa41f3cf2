//! Every scenario on both platforms.

use portcullis_scenarios::{all, compare};

#[test]
fn survey() {
    let Some(qemu) = portcullis_qemu::for_test("survey") else { return };
    let only = std::env::var("ONLY").ok();
    let mut bad = 0;
    for scenario in all() {
        if only.as_ref().is_some_and(|only| !scenario.name.contains(only.as_str())) {
            continue;
        }
        match compare(&scenario, qemu) {
            Ok(comparison) if comparison.complaints.is_empty() => println!(
                "ok   {} {}",
                scenario.name,
                if comparison.qemu.is_none() { "(no qemu)" } else { "" }
            ),
            Ok(comparison) => {
                bad += 1;
                println!("BAD  {}", scenario.name);
                for complaint in comparison.complaints {
                    println!("       {complaint}");
                }
            }
            Err(error) => {
                bad += 1;
                println!("FAIL {}: {error}", scenario.name);
            }
        }
    }
    assert_eq!(bad, 0);
}
