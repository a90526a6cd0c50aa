//! The chains of a host in memory, and what `iptables-restore --noflush` does to them.

use std::collections::BTreeMap;

use super::super::Seen;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fake {
    /// Of each chain its rules, which begin with its name.
    chains: BTreeMap<String, Vec<String>>,
}

impl Fake {
    pub(super) fn new(postrouting: Vec<String>, forward: Vec<String>) -> Self {
        let chains = [("POSTROUTING", postrouting), ("FORWARD", forward)];
        Self {
            chains: chains
                .into_iter()
                .map(|(name, rules)| (name.to_owned(), rules))
                .collect(),
        }
    }

    /// Tables are not told apart: no two have a chain of the same name here.
    pub(super) fn restore(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let (command, chain) = (words.next().unwrap(), words.next().unwrap_or_default());
            let of_chain = |rule: &str| format!("{chain} {rule}");
            let rest = words.next().unwrap_or_default();
            match command {
                "-A" => self.chains.get_mut(chain).unwrap().push(of_chain(rest)),
                "-I" => {
                    let (number, rule) = rest.split_once(' ').unwrap();
                    let number: usize = number.parse().unwrap();
                    self.chains
                        .get_mut(chain)
                        .unwrap()
                        .insert(number - 1, of_chain(rule));
                }
                "-D" => {
                    let rules = self.chains.get_mut(chain).unwrap();
                    let first = rules.iter().position(|rule| *rule == of_chain(rest)).unwrap();
                    rules.remove(first);
                }
                "-F" => self.chains.get_mut(chain).unwrap().clear(),
                "-X" => {
                    let target = |rule: &str| rule.ends_with(&format!(" {chain}"));
                    assert!(
                        !self.chains.values().flatten().any(|rule| target(rule)),
                        "{line}: in use"
                    );
                    assert_eq!(self.chains.remove(chain), Some(Vec::new()), "{line}");
                }
                "COMMIT" => {}
                made if made.starts_with(':') => {
                    let name = made.strip_prefix(':').unwrap().to_owned();
                    self.chains.insert(name, Vec::new());
                }
                table => assert!(table.starts_with('*'), "{line}"),
            }
        }
    }

    pub(super) fn seen(&self) -> Seen {
        let listing = |chain: &str| {
            let head = match chain {
                "POSTROUTING" | "FORWARD" => format!("-P {chain} ACCEPT\n"),
                _ => format!("-N {chain}\n"),
            };
            let rules = self.chains.get(chain)?.iter().map(|rule| format!("-A {rule}\n"));
            Some(head + &rules.collect::<String>())
        };
        Seen {
            postrouting: listing("POSTROUTING").unwrap(),
            masquerade: listing("FLANNEL-POSTRTG"),
            forward: listing("FORWARD").unwrap(),
            forwards: listing("FLANNEL-FWD"),
        }
    }

    /// How many rules a chain has, where there is one.
    pub(super) fn length(&self, chain: &str) -> Option<usize> {
        self.chains.get(chain).map(Vec::len)
    }

    /// How often a rule is there, which begins with its chain's name.
    pub(super) fn count(&self, rule: &str) -> usize {
        self.chains
            .values()
            .flatten()
            .filter(|other| *other == rule)
            .count()
    }

    /// The rules in built-in chains that have no comment.
    pub(super) fn uncommented(&self) -> Vec<&String> {
        let builtin = ["POSTROUTING", "FORWARD"].map(|chain| &self.chains[chain]);
        let rules = builtin.into_iter().flatten();
        rules.filter(|rule| !rule.contains("--comment")).collect()
    }

    /// The rules in built-in chains that cannot be taken for ours by anybody.
    pub(super) fn operators(&self) -> Vec<&String> {
        let builtin = ["POSTROUTING", "FORWARD"].map(|chain| &self.chains[chain]);
        let is_operators = |rule: &&String| {
            [" LOG ", "REJECT", "-blue"]
                .iter()
                .any(|word| rule.contains(word))
        };
        builtin.into_iter().flatten().filter(is_operators).collect()
    }
}
