//! What `iptables -S` prints, read back into rules.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ruleset::{Match, Rule, Verdict, mark_number};

/// A chain as it was printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain<'a> {
    pub(super) lines: Vec<Line<'a>>,
    /// The policy of a built-in chain.
    pub(super) policy: Option<&'a str>,
    /// Whether every line was a rule, or says that the chain is there.
    pub(super) understood: bool,
}

/// A rule as it was printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The chain's name and all of the rule: `-D` and `-A` make a command of it.
    pub(super) text: &'a str,
    /// What it says, apart from comments; None where it says anything that ours never do.
    pub(super) rule: Option<Rule>,
    pub(super) comments: Vec<String>,
    /// Where it leads.
    pub(super) target: Option<Target>,
    /// Whether it is about every packet.
    pub(super) for_all: bool,
}

/// Where a rule leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// To a verdict, or to a chain and back (`-j`).
    Jump(String),
    /// To a chain, and not back (`-g`).
    Goto(String),
}

impl<'a> Chain<'a> {
    /// Reads all lines; never fails, since much of it is the operator's.
    pub(super) fn parse(listing: &'a str) -> Self {
        let mut chain = Self {
            lines: Vec::new(),
            policy: None,
            understood: true,
        };
        for line in listing.lines() {
            match line.split_once(' ') {
                Some(("-A", text)) => match words(text).and_then(|words| Line::parse(text, words)) {
                    Some(line) => chain.lines.push(line),
                    None => chain.understood = false,
                },
                Some(("-P", policy)) => chain.policy = policy.split(' ').nth(1),
                Some(("-N" | "#", _)) => {}
                _ => chain.understood &= line.trim().is_empty(),
            }
        }
        chain
    }
}

impl<'a> Line<'a> {
    /// None where not even the words are what they ought to be.
    fn parse(text: &'a str, words: Vec<Word>) -> Option<Self> {
        let mut words = words.into_iter().skip(1);
        let mut said = Said::default();
        let mut not = false;
        let mut target = None;
        while let Some(Word { text, quoted }) = words.next() {
            let negated = std::mem::take(&mut not);
            match text.as_str() {
                _ if quoted => said.otherwise = true,
                "!" if !negated => not = true,
                "-s" => said.is_from(negated, &words.next()?.text),
                "-d" => said.is_to(negated, &words.next()?.text),
                "-m" => said.otherwise |= !["mark", "comment"].contains(&words.next()?.text.as_str()),
                "--mark" if !negated => said.is_marked(&words.next()?.text),
                "--comment" if !negated => said.comments.push(words.next()?.text),
                "-j" => target = Some(Target::Jump(words.next()?.text)),
                "-g" => target = Some(Target::Goto(words.next()?.text)),
                _ => said.otherwise = true,
            }
            if target.is_some() {
                break;
            }
        }
        // What follows the target are the target's options.
        let options: Vec<Word> = words.collect();
        let options: Vec<&str> = options.iter().map(|word| word.text.as_str()).collect();
        let verdict = target.as_ref().and_then(|target| verdict(target, &options));
        Some(Self {
            text,
            for_all: said.is_nothing(),
            rule: verdict.and_then(|verdict| said.rule(verdict)),
            comments: said.comments,
            target,
        })
    }

    /// Whether it jumps to this chain, or goes there for good.
    pub(super) fn leads_to(&self, chain: &str) -> bool {
        match &self.target {
            Some(Target::Jump(name) | Target::Goto(name)) => name == chain,
            None => false,
        }
    }

    /// Whether it jumps to this chain or verdict (`-j`).
    pub(super) fn jumps_to(&self, name: &str) -> bool {
        matches!(&self.target, Some(Target::Jump(target)) if target == name)
    }

    /// Whether this is its comment, and it has no other.
    pub(super) fn is_commented(&self, comment: &str) -> bool {
        self.comments == [comment]
    }
}

fn verdict(target: &Target, options: &[&str]) -> Option<Verdict> {
    let Target::Jump(name) = target else { return None };
    match (name.as_str(), options) {
        ("RETURN", []) => Some(Verdict::Return),
        ("ACCEPT", []) => Some(Verdict::Accept),
        ("MASQUERADE", []) => Some(Verdict::Masquerade { random_fully: false }),
        ("MASQUERADE", ["--random-fully"]) => Some(Verdict::Masquerade { random_fully: true }),
        _ => None,
    }
}

/// What a rule demands of a packet.
#[derive(Default)]
struct Said {
    mark: Option<u32>,
    source: Option<Match>,
    destination: Option<Match>,
    comments: Vec<String>,
    /// Anything else.
    otherwise: bool,
}

impl Said {
    fn is_from(&mut self, negated: bool, net: &str) {
        self.otherwise |= !once(&mut self.source, matching(negated, net));
    }

    fn is_to(&mut self, negated: bool, net: &str) {
        self.otherwise |= !once(&mut self.destination, matching(negated, net));
    }

    /// `0x4000/0x4000`: of these bits, all.
    fn is_marked(&mut self, mark: &str) {
        let numbers = mark
            .split_once('/')
            .map(|(bits, mask)| (mark_number(bits), mark_number(mask)));
        let bits = match numbers {
            Some((Some(bits), Some(mask))) if bits == mask => Some(bits),
            _ => None,
        };
        self.otherwise |= !once(&mut self.mark, bits);
    }

    const fn is_nothing(&self) -> bool {
        !self.otherwise && self.mark.is_none() && self.source.is_none() && self.destination.is_none()
    }

    fn rule(&self, verdict: Verdict) -> Option<Rule> {
        let rule = Rule {
            mark: self.mark,
            ..Rule::new(self.source, self.destination, verdict)
        };
        (!self.otherwise).then_some(rule)
    }
}

fn matching(negated: bool, net: &str) -> Option<Match> {
    let address = || net.parse::<IpAddr>().ok().map(IpNet::from);
    let net: IpNet = net.parse().ok().or_else(address)?;
    (net == net.trunc()).then_some(Match { net, negated })
}

/// False where there is no value, or there was one.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let first = place.is_none();
    *place = value;
    first && place.is_some()
}

struct Word {
    text: String,
    /// Whether it stood between quotation marks, and so is no flag.
    quoted: bool,
}

/// The words of a line, as `iptables-restore` takes them apart. None where a quotation does not end.
fn words(line: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    while let Some(first) = rest.next() {
        if first.is_whitespace() {
            continue;
        }
        let quoted = first == '"';
        let mut text = String::new();
        if !quoted {
            text.push(first);
        }
        loop {
            match rest.next() {
                Some('"') if quoted => break,
                Some('\\') if quoted => text.push(rest.next()?),
                Some(c) if c.is_whitespace() && !quoted => break,
                Some(c) => text.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        words.push(Word { text, quoted });
    }
    Some(words)
}
