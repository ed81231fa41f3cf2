//! What `show` and `boot` print as JSON is what their schemas say, no field more and none less.
//!
//! The schemas are the contract: they are written by hand, and read here by another implementation.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

fn portcullis(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output();
    let output = output.expect("the command starts");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn boards() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../boards");
    let files =
        std::fs::read_dir(folder).expect("the boards").map(|entry| entry.expect("an entry").path());
    let blobs = files.filter(|path| path.extension().is_some_and(|it| it == "dtb"));
    blobs.map(|path| path.to_str().expect("a plain path").to_owned()).collect()
}

/// Machines by their ACPI tables, a folder each, where `PORTCULLIS_ACPI_TABLES` names some.
fn machines() -> Vec<String> {
    let Some(folder) = std::env::var_os("PORTCULLIS_ACPI_TABLES") else { return Vec::new() };
    let entries = std::fs::read_dir(folder).expect("the tables");
    let folders = entries.map(|entry| entry.expect("an entry").path()).filter(|it| it.is_dir());
    folders.map(|path| path.to_str().expect("a plain path").to_owned()).collect()
}

/// Readers must put up with further fields; this project documents each.
fn closed(schema: &mut Value) {
    if schema.get("properties").is_some() {
        schema["additionalProperties"] = json!(false);
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(closed),
        Value::Array(items) => items.iter_mut().for_each(closed),
        _ => {}
    }
}

/// A schema, ready to be asked.
struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn of(document: &str) -> Self {
        let mut schema = portcullis(&["schema", document]);
        closed(&mut schema);
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(document, schema).expect("a document");
        let index = compiler.compile(document, &mut schemas).expect("a schema");
        Self { schemas, index }
    }

    /// What is wrong with the document; nothing where it is as it should be.
    fn wrong(&self, value: &Value) -> Option<String> {
        self.schemas.validate(value, self.index).err().map(|error| format!("{error:#}"))
    }
}

#[test]
fn show_prints_what_its_schema_says() {
    let validator = Validator::of("show");
    assert!(boards().len() > 3, "{:?}", boards());
    for board in boards().into_iter().chain(machines()) {
        let wrong = validator.wrong(&portcullis(&["show", &board, "--json"]));
        assert_eq!(wrong, None, "{board}");
    }
}

#[test]
fn boot_prints_what_its_schema_says() {
    let validator = Validator::of("boot");
    for board in boards() {
        let wrong = validator.wrong(&portcullis(&["boot", &board, "--json"]));
        assert_eq!(wrong, None, "{board}");
    }
}

#[test]
fn many_boots_print_what_their_schema_says() {
    let found = portcullis(&["boot", "--repeat", "3", "--json"]);
    assert_eq!(Validator::of("boot-repeat").wrong(&found), None);
}

/// A field less, a field more, a word that is not known, a number out of range: each is noticed.
#[test]
fn what_the_schema_does_not_say_is_noticed() {
    let validator = Validator::of("show");
    let good = portcullis(&["show", &boards()[0], "--json"]);
    assert_eq!(validator.wrong(&good), None);
    type Spoil = fn(&mut Value);
    let spoilt: [(Spoil, &str); 4] = [
        (|it| drop(it.as_object_mut().expect("an object").remove("findings")), "findings"),
        (|it| it["iommus"][0]["colour"] = json!("red"), "/iommus/0"),
        (|it| it["devices"][0]["dma"] = json!("sometimes"), "/devices/0/dma"),
        (|it| it["devices"][0]["address_bits"] = json!(65), "/devices/0/address_bits"),
    ];
    for (spoil, place) in spoilt {
        let mut value = good.clone();
        spoil(&mut value);
        let found = validator.wrong(&value).expect("an error");
        assert!(found.contains(place), "{place}: {found}");
    }
}
