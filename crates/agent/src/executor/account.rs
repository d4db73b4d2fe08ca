//! As whom a job runs: `run_as` read as `user`, `user:group` or numbers.
//!
//! /etc/passwd and /etc/group are read by ourselves: a static musl program has no other name services, and what is
//! allowed to run as whom should not hang on a directory server.

use std::fs;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) user: u32,
    pub(super) group: u32,
    /// The other groups; `group` may be among them.
    pub(super) groups: Vec<u32>,
}

impl Account {
    /// Looks it up.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(super) fn find(run_as: &str) -> Result<Self, String> {
        let read = |path: &str| {
            let bytes =
                fs::read(path).map_err(|error| format!("cannot read {path}: {}", super::plain(&error)))?;
            Ok::<_, String>(String::from_utf8_lossy(&bytes).into_owned())
        };
        // Numbers need no files, as in a container without them.
        if let Some((user, group)) = run_as.split_once(':')
            && let (Ok(user), Ok(group)) = (user.parse(), group.parse())
        {
            return Ok(Self { user, group, groups: vec![group] });
        }
        resolve(run_as, &read("/etc/passwd")?, &read("/etc/group")?)
    }
}

/// What a login of a user begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Number of the user, and of its group.
    pub ids: (u32, u32),
    /// `HOME`, `USER` and `LOGNAME`; none for a user that is not in /etc/passwd.
    pub env: Vec<(String, String)>,
}

/// That of `run_as`, or of the user that this process runs as.
///
/// # Errors
/// What is wrong with the name.
pub fn login(run_as: Option<&str>) -> Result<Login, String> {
    let ids = match run_as {
        Some(run_as) => Account::find(run_as).map(|account| (account.user, account.group))?,
        None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let entry = passwd.lines().filter_map(user_of).find(|user| user.id == ids.0);
    let env = entry.map(|User { name, home, .. }| {
        [("HOME", home), ("USER", name), ("LOGNAME", name)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec()
    });
    Ok(Login { ids, env: env.unwrap_or_default() })
}

fn resolve(run_as: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let (name, wanted_group) =
        run_as.split_once(':').map_or((run_as, None), |(user, group)| (user, Some(group)));
    let entry = passwd.lines().find_map(|line| user_of(line).filter(|user| user.is(name)));
    let number = name.parse().ok();
    let user = entry
        .as_ref()
        .map(|entry| entry.id)
        .or(number)
        .ok_or_else(|| format!("no user {name:?} in /etc/passwd"))?;
    if let Some(wanted) = wanted_group {
        let found =
            group.lines().filter_map(group_of).find(|group| group.name == wanted).map(|group| group.id);
        let group =
            found.or(wanted.parse().ok()).ok_or_else(|| format!("no group {wanted:?} in /etc/group"))?;
        return Ok(Account { user, group, groups: vec![group] });
    }
    let entry = entry.ok_or_else(|| {
        format!("user {name} is not in /etc/passwd: name its group too, as in {name}:GROUP")
    })?;
    let mut groups = vec![entry.group];
    let listed = group.lines().filter_map(group_of).filter(|group| group.members.contains(&entry.name));
    groups.extend(listed.map(|group| group.id));
    groups.sort_unstable();
    groups.dedup();
    Ok(Account { user, group: entry.group, groups })
}

struct User<'a> {
    name: &'a str,
    id: u32,
    group: u32,
    home: &'a str,
}

impl User<'_> {
    fn is(&self, name: &str) -> bool {
        self.name == name || name.parse() == Ok(self.id)
    }
}

struct Group<'a> {
    name: &'a str,
    id: u32,
    members: Vec<&'a str>,
}

/// `name:password:uid:gid:comment:home:…`
fn user_of(line: &str) -> Option<User<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (id, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(User { name, id, group, home: fields.nth(1).unwrap_or("/") })
}

/// `name:password:gid:member,member`
fn group_of(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let id = fields.next()?.parse().ok()?;
    Some(Group { name, id, members: fields.next().unwrap_or_default().trim().split(',').collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n+::::::\nops:x:1000:1000::/home/ops:/bin/sh\n\
                          7:x:1007:100::/:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nops:x:1000:\nusers:x:100:\ndialout:x:20:ops,root\ngpio:x:997:ops\nempty\n";

    fn found(run_as: &str) -> Result<(u32, u32, Vec<u32>), String> {
        resolve(run_as, PASSWD, GROUP).map(|account| (account.user, account.group, account.groups))
    }

    #[test]
    fn a_name_brings_the_groups_that_list_it() {
        assert_eq!(found("ops"), Ok((1000, 1000, vec![20, 997, 1000])));
        assert_eq!(found("1000"), Ok((1000, 1000, vec![20, 997, 1000])));
        assert_eq!(found("root"), Ok((0, 0, vec![0, 20])));
        assert_eq!(found("7"), Ok((1007, 100, vec![100])), "a name of digits is a name");
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        assert_eq!(found("ops:dialout"), Ok((1000, 20, vec![20])));
        assert_eq!(found("ops:55"), Ok((1000, 55, vec![55])));
        assert_eq!(found("4242:users"), Ok((4242, 100, vec![100])));
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(found("nosuch"), Err("no user \"nosuch\" in /etc/passwd".into()));
        assert_eq!(found(""), Err("no user \"\" in /etc/passwd".into()));
        assert_eq!(found("ops:nosuch"), Err("no group \"nosuch\" in /etc/group".into()));
        let alone = found("4242").unwrap_err();
        assert!(alone.contains("name its group too"), "{alone}");
        assert!(found("-1").is_err() && found("4294967296").is_err());
    }
}
