//! Names, errors and formats that users meet: protocols, worlds, schedules, JSON.

use portcullis_lab::linux::{
    BASES, BaseId, Budget, COMMITS, CheckError, Commit, Event, Protocol, ProtocolError, World,
    WorldError, check, replay, scenario,
};

fn refused(base: &str, apply: &[&str], revert: &[&str]) -> ProtocolError {
    Protocol::parse(base, apply, revert).unwrap_err()
}

#[test]
fn bases_and_commits_are_found_by_the_names_people_use() {
    for (name, id) in [
        ("v6.6", BaseId::V6_6),
        ("6.6", BaseId::V6_6),
        ("V6.1.192", BaseId::V6_1_Y),
        ("v6.13-rc5", BaseId::V6_13_RC5),
        ("7.3", BaseId::V7_3_RC7),
    ] {
        assert_eq!(BaseId::find(name), Some(id), "{name}");
    }
    assert_eq!(Commit::find("f188056"), Some(Commit::AttachInProbe));
    assert_eq!(
        Commit::find("b46064a18810bad3aea089a79993ca5ea7a3d2b2"),
        Some(Commit::DefaultDomainCheck)
    );
    assert_eq!(Commit::find("b46064a18810-6.6.y"), Some(Commit::DefaultDomainBackport));
    assert_eq!(Commit::find("b4606"), None, "too short to be sure");
    for garbage in [
        "b46064a18810-6.6.yy",
        "b46064a18810xyz",
        "f188056352bc0000",
        "b46064a18810bad3aea089a79993ca5ea7a3d2b3",
        "b46064a18810bad3aea089a79993ca5ea7a3d2b20",
        "rfc-2024",
        "",
    ] {
        assert_eq!(Commit::find(garbage), None, "{garbage}");
    }
    for info in COMMITS.iter().filter(|info| !info.hash.is_empty()) {
        assert!(info.hash.len() == 40 && info.hash.starts_with(info.id), "{}", info.id);
        assert!(info.hash.bytes().all(|digit| digit.is_ascii_hexdigit()), "{}", info.hash);
        assert_eq!(Commit::find(info.hash), Some(info.commit));
    }
    for info in COMMITS {
        assert_eq!(Commit::find(info.id), Some(info.commit));
        assert_eq!(info.commit.info().id, info.id);
    }
    for (i, base) in BASES.iter().enumerate() {
        assert_eq!(base.id as usize, i);
        assert_eq!(BaseId::find(base.name), Some(base.id));
    }
}

#[test]
fn trees_that_cannot_exist_are_refused_with_a_remedy() {
    let says = |error: ProtocolError, words: &[&str]| {
        let text = error.to_string();
        words.iter().for_each(|word| assert!(text.contains(word), "{text}"));
    };
    says(refused("v5.4", &[], &[]), &["v5.4", "v6.6", "v7.3-rc7"]);
    says(refused("v6.6", &["deadbeef1234"], &[]), &["deadbeef1234", "f188056352bc"]);
    says(refused("v6.6", &["f188056352bc"], &[]), &["carries", "leave out"]);
    says(refused("v6.6", &[], &["b46064a18810"]), &["does not carry"]);
    says(refused("v6.12", &["b46064a18810-6.6.y"], &[]), &["does not apply", "v6.6"]);
    says(refused("v6.12", &[], &["f188056352bc"]), &["cannot be reverted", "v6.6"]);
    says(refused("v6.1.0", &["a2e7e59a9426"], &[]), &["needs 01657bc14a39"]);
    says(refused("v7.3", &[], &["bcb81ac6ae3c"]), &["v6.15-rc1"]);
    says(refused("v6.6", &["b5c58b2fdc42"], &[]), &["needs b67483b3c44e"]);
}

/// Every commit can be toggled where the table says so, alone or with what it needs.
#[test]
fn the_table_of_commits_is_consistent() {
    for info in COMMITS {
        for base in info.carried_by {
            assert!(!info.applies_to.contains(base), "{} on {base}", info.id);
        }
        for base in info.reverts_from {
            assert!(info.carried_by.contains(base), "{} on {base}", info.id);
        }
        for base in info.applies_to {
            let mut wanted: Vec<&str> = vec![info.id];
            let mut at = 0;
            while at < wanted.len() {
                let needs = Commit::find(wanted[at]).unwrap().info().needs;
                let missing = needs.iter().filter(|need| !base.commits().has(**need));
                wanted.extend(missing.map(|need| need.id()));
                at += 1;
            }
            wanted.reverse();
            wanted.dedup();
            let tree = Protocol::parse::<&str>(base.name(), &wanted, &[]);
            assert!(tree.is_ok(), "{} on {base}: {}", info.id, tree.unwrap_err());
        }
    }
    for base in BASES {
        let complete = Protocol::parse::<&str>(base.name, &[], &[]);
        assert!(complete.is_ok(), "{}: {}", base.name, complete.unwrap_err());
    }
}

#[test]
fn reverting_what_was_applied_is_the_tree_before() {
    let plain = Protocol::of(BaseId::V6_12);
    let there_and_back = plain
        .with(Commit::DefaultDomainCheck)
        .and_then(|tree| tree.without(Commit::DefaultDomainCheck))
        .unwrap();
    assert_eq!(plain, there_and_back);
}

#[test]
fn worlds_read_back_and_refuse_nonsense() {
    let mut world =
        World { events: vec![Event::Vfio, Event::Unplug], attempts: 3, ..World::default() };
    world = world.checked().unwrap();
    assert_eq!(world.to_string(), "i2r1c1.own.platform.dt.v3.a3.unplug.vfio");
    assert_eq!(world.to_string().parse(), Ok(world));
    let refused = |world: World| world.checked().unwrap_err();
    assert_eq!(
        refused(World::of(2, 3, 1)),
        WorldError::Range { what: "registering", value: 3, least: 0, most: 2 }
    );
    assert!(refused(World::of(9, 1, 1)).to_string().contains("1 to 3"));
    let mixed: Result<World, _> = "i2r1c1.mixed.platform.dt.v3.a1".parse();
    assert_eq!(mixed, Err(WorldError::MixedNeedsTwo));
    for name in
        ["", "i2", "i2r1.own", "i2r1c1.own.platform.dt.v3.x1", "i2r1c1.own.platform.dt.v3.a1.boom"]
    {
        assert!(name.parse::<World>().is_err(), "{name}");
    }
}

/// A schedule of this edition. It must replay for as long as the edition is called so: never edit it.
const REPORT: &str = "linux2:v6.6/i2r1c1.own.platform.dt.v3.a1:0x5.1x11.0x21.1x7.0x2.1x5";

#[test]
fn a_schedule_of_this_edition_still_replays() {
    let (protocol, world, trace) = replay(REPORT).unwrap();
    assert_eq!(protocol, Protocol::of(BaseId::V6_6));
    assert_eq!(world, World::default());
    assert_eq!(trace.violated(), ["wrong-path"]);
}

#[test]
fn strings_that_are_no_schedule_say_why() {
    assert!(matches!(replay("hello"), Err(CheckError::Schedule(_))));
    assert!(matches!(replay("ours1:a:0x3"), Err(CheckError::NotLinux(_))));
    let old = "p1:linux/v6.6/i2r1c1.own.platform.dt.v3.a1:0x5.1x11";
    let refused = replay(old).unwrap_err();
    assert_eq!(refused, CheckError::FirstEdition("v6.6/i2r1c1.own.platform.dt.v3.a1".into()));
    assert!(refused.to_string().contains("lab check"), "{refused}");
    assert!(matches!(
        replay("linux2:v9/i2r1c1.own.platform.dt.v3.a1:0"),
        Err(CheckError::Protocol(ProtocolError::UnknownBase(_)))
    ));
    assert!(matches!(replay("linux2:v6.6/i2r1c1:0"), Err(CheckError::World(_))));
    assert!(matches!(
        replay("linux2:v6.6/i2r1c1.own.platform.dt.v3.a1:0x4000"),
        Err(CheckError::Replay(_))
    ));
    let tree = Protocol::parse("v6.6", &["b46064a18810-6.6.y", "229e6ee43d2a"], &[]).unwrap();
    let name = scenario(&tree, &World::default());
    assert_eq!(replay(&format!("{name}:-")).unwrap().0, tree);
}

#[test]
fn the_json_has_the_documented_keys() {
    let tree = Protocol::parse("v6.6", &["b46064a18810"], &[]).unwrap();
    let world = World::default();
    let report = check(&tree, &world, Budget::for_world(&world), &mut |_| {}).unwrap();
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["protocol"], "v6.6 + b46064a18810");
    assert_eq!(json["base"], "v6.6");
    assert_eq!(json["applied"], serde_json::json!(["b46064a18810"]));
    assert_eq!(json["reverted"], serde_json::json!([]));
    let world = &json["world"];
    for (key, value) in [("iommus", 2), ("registering", 1), ("clients", 1), ("attempts", 1)] {
        assert_eq!(world[key], value, "{key}");
    }
    for (key, value) in [("group", "own"), ("bus", "platform"), ("firmware", "dt")] {
        assert_eq!(world[key], value, "{key}");
    }
    assert_eq!(world["events"], serde_json::json!([]));
    let explored = &json["explored"];
    assert!(explored["schedules"].is_u64() && explored["states"].is_u64());
    assert_eq!(explored["exhaustive"], true);
    assert!(explored["seconds"].is_f64());
    assert_eq!(json["verdict"], "violated");
    let violation = &json["violations"][0];
    assert_eq!((&violation["property"], &violation["bad_end"]), (&"I1".into(), &"B1".into()));
    assert!(violation["message"].as_str().unwrap().contains("retaining platform DMA ops"));
    assert!(violation["steps"].as_u64().unwrap() > 20);
    assert!(violation["schedule"].as_str().unwrap().starts_with("linux2:v6.6+b46064a18810/"));
}
