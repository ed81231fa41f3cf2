//! QEMU's machine protocol: one JSON object a line (QEMU's `docs/interop/qmp-spec.rst`).

use crate::error::ErrorKind;
use crate::qtest::QomPath;
use crate::wire::LineSocket;
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One entry of an object's property list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QomProperty {
    /// Its name.
    pub name: String,
    /// Its type; children of the object are `child<TYPE>`.
    pub kind: String,
}

/// A connection to the monitor, greeted and ready.
#[derive(Debug)]
pub struct Qmp(Mutex<LineSocket>);

impl Qmp {
    /// Waits for the greeting on `socket` and leaves negotiation mode; each answer may take `bound`.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn new(socket: UnixStream, bound: Duration) -> Result<Self, ErrorKind> {
        let mut lines = LineSocket::new(socket, bound);
        let deadline = lines.deadline();
        let greeting = next(&mut lines, deadline, "QMP greeting")?;
        if greeting.get("QMP").is_none() {
            let answer = greeting.to_string();
            return Err(ErrorKind::Malformed { what: "QMP greeting".to_owned(), answer });
        }
        let qmp = Self(Mutex::new(lines));
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs `command` with `arguments` (an object) and returns its `return` member.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] with QEMU's description; the kinds of a broken connection as for [`crate::Qtest::request`].
    pub fn execute(&self, command: &'static str, arguments: Value) -> Result<Value, ErrorKind> {
        self.execute_until(command, arguments, None)
    }

    /// As [`execute`](Self::execute), and then waits for `event`, which `command` causes.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn execute_and_await(
        &self,
        command: &'static str,
        arguments: Value,
        event: &'static str,
    ) -> Result<Value, ErrorKind> {
        self.execute_until(command, arguments, Some(event))
    }

    /// The properties of an object, children among them.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    #[doc(alias = "qom-list")]
    pub fn list(&self, path: &QomPath) -> Result<Vec<QomProperty>, ErrorKind> {
        let answer = self.execute("qom-list", json!({ "path": path.as_str() }))?;
        let property = |entry: &Value| {
            let text = |key: &str| Some(entry.get(key)?.as_str()?.to_owned());
            Some(QomProperty { name: text("name")?, kind: text("type")? })
        };
        let properties = answer.as_array().map(|list| list.iter().filter_map(property).collect());
        properties.ok_or_else(|| ErrorKind::Malformed {
            what: format!("qom-list {path}"),
            answer: answer.to_string(),
        })
    }

    /// The value of an object's property.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    #[doc(alias = "qom-get")]
    pub fn get(&self, path: &QomPath, property: &str) -> Result<Value, ErrorKind> {
        self.execute("qom-get", json!({ "path": path.as_str(), "property": property }))
    }

    /// The paths of all objects of type `kind` on the machine's first two levels, where boards and `-device` put theirs.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn find(&self, kind: &str) -> Result<Vec<QomPath>, ErrorKind> {
        let wanted = format!("child<{kind}>");
        let mut found = Vec::new();
        for parent in
            ["/machine", "/machine/unattached", "/machine/peripheral", "/machine/peripheral-anon"]
        {
            let Some(path) = QomPath::new(parent) else { continue };
            let children = self.list(&path)?;
            let matching = children.iter().filter(|property| property.kind == wanted);
            found.extend(matching.filter_map(|p| QomPath::new(format!("{parent}/{}", p.name))));
        }
        Ok(found)
    }

    fn execute_until(
        &self,
        command: &'static str,
        arguments: Value,
        event: Option<&'static str>,
    ) -> Result<Value, ErrorKind> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let request = json!({ "execute": command, "arguments": arguments });
        lines.send(format!("{request}\n").as_bytes(), &command)?;
        let deadline = lines.deadline();
        let mut returned = None;
        let mut happened = event.is_none();
        while !happened || returned.is_none() {
            let message = next(&mut lines, deadline, command)?;
            if let Some(error) = message.get("error") {
                let answer = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
                let (what, answer) = (command.to_owned(), answer.to_owned());
                return Err(ErrorKind::Refused { what, answer });
            }
            happened |= event.is_some() && message.get("event").and_then(Value::as_str) == event;
            returned = returned.or_else(|| message.get("return").cloned());
        }
        Ok(returned.unwrap_or(Value::Null))
    }
}

fn next(lines: &mut LineSocket, deadline: Instant, what: &str) -> Result<Value, ErrorKind> {
    let line = lines.line(deadline, &what)?;
    serde_json::from_str(&line)
        .map_err(|_| lines.poison(ErrorKind::Malformed { what: what.to_owned(), answer: line }))
}
