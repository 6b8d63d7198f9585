//! Users and groups of this system by name: for hooks that run as somebody else, and for who may use the control socket.

use std::fs;
use std::process::{Command, Stdio};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Name.
    pub(crate) name: String,
    /// Number.
    pub(crate) uid: u32,
    /// Number of the primary group.
    pub(crate) gid: u32,
    /// Home folder.
    pub(crate) home: String,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Number.
    pub(crate) gid: u32,
    /// Names of the users that are in it beside those whose primary group it is.
    pub(crate) members: Vec<String>,
}

/// Finds a user by name.
pub(crate) fn user(name: &str) -> Option<User> {
    find("passwd", name, 0).and_then(|line| parse_user(&line))
}

/// Finds a user by number.
pub(crate) fn user_by_number(uid: u32) -> Option<User> {
    find("passwd", &uid.to_string(), 2).and_then(|line| parse_user(&line))
}

/// Finds a group by name.
pub(crate) fn group(name: &str) -> Option<Group> {
    find("group", name, 0).and_then(|line| parse_group(&line))
}

// In the files of the system first; directories of users (LDAP and the like) answer through getent.
fn find(database: &str, wanted: &str, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    if let Some(line) = text.lines().find(|line| line.split(':').nth(field) == Some(wanted)) {
        return Some(line.to_string());
    }
    let output = Command::new("getent")
        .args([database, wanted])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find(|line| line.split(':').nth(field) == Some(wanted)).map(str::to_string)
}

fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
    Some(User {
        name: name.to_string(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: home.to_string(),
    })
}

fn parse_group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let [_, _, gid, members] = fields.as_slice() else { return None };
    let members = members.split(',').filter(|name| !name.is_empty()).map(str::to_string);
    Some(Group { gid: gid.parse().ok()?, members: members.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_number_and_nobody_is_invented() {
        let root = user("root").unwrap();

        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_by_number(0), Some(root));
        assert_eq!(group("root").unwrap().gid, 0);
        assert_eq!(user("nobody of this name"), None);
        assert_eq!(parse_group("keepwell:x:990:eva,max").unwrap().members, ["eva", "max"]);
    }
}
