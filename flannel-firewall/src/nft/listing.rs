//! What `nft list table` prints, read back into rules.

use std::net::IpAddr;

use flannel_core::Family;
use ipnet::IpNet;

use super::header;
use crate::ruleset::{Match, Rule, Verdict, mark_number};

/// `NF_IP_PRI_NAT_SRC` and `NF_IP_PRI_FILTER` in `linux/netfilter_ipv4.h`; IPv6 has the same.
pub(super) const SRCNAT: i32 = 100;
pub(super) const FILTER: i32 = 0;

/// A table that holds nothing but chains of rules as ours are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table<'a> {
    pub(super) family: Family,
    pub(super) name: &'a str,
    pub(super) chains: Vec<Chain<'a>>,
}

/// A chain, whose policy is to accept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain<'a> {
    pub(super) name: &'a str,
    /// None: only other chains lead here.
    pub(super) base: Option<Base<'a>>,
    pub(super) rules: Vec<Rule>,
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base<'a> {
    pub(super) kind: &'a str,
    pub(super) hook: &'a str,
    pub(super) priority: i32,
}

/// A table as it was printed. None where there is anything in it that we never write.
pub(super) fn parse(listing: &str) -> Option<Table<'_>> {
    let tokens = tokens(listing)?;
    let mut blocks = statements(&tokens);
    let (family, name) = match blocks.next()? {
        Statement::Opens([Token::Word("table"), Token::Word("ip"), Token::Word(name)]) => (Family::V4, *name),
        Statement::Opens([Token::Word("table"), Token::Word("ip6"), Token::Word(name)]) => {
            (Family::V6, *name)
        }
        _ => return None,
    };
    let mut chains = Vec::new();
    loop {
        match blocks.next()? {
            Statement::Is([Token::Word("comment"), Token::Quoted(_)]) => {}
            Statement::Opens([Token::Word("chain"), Token::Word(name)]) => {
                chains.push(chain(name, family, &mut blocks)?);
            }
            Statement::Closes => break,
            _ => return None,
        }
    }
    blocks.next().is_none().then_some(Table { family, name, chains })
}

fn chain<'a, 't: 'a>(
    name: &'t str,
    family: Family,
    blocks: &mut impl Iterator<Item = Statement<'a, 't>>,
) -> Option<Chain<'t>> {
    let mut chain = Chain {
        name,
        base: None,
        rules: Vec::new(),
    };
    loop {
        match blocks.next()? {
            Statement::Is([Token::Word("comment"), Token::Quoted(_)])
            | Statement::Is([Token::Word("policy"), Token::Word("accept")]) => {}
            Statement::Is([Token::Word("type"), rest @ ..]) if chain.base.is_none() => {
                chain.base = Some(base(rest)?);
            }
            Statement::Is(words) => chain.rules.push(rule(words, family)?),
            Statement::Closes => return Some(chain),
            Statement::Opens(_) => return None,
        }
    }
}

fn base<'t>(words: &[Token<'t>]) -> Option<Base<'t>> {
    let [
        Token::Word(kind),
        Token::Word("hook"),
        Token::Word(hook),
        Token::Word("priority"),
        Token::Word(priority),
    ] = words
    else {
        return None;
    };
    let priority = match *priority {
        "srcnat" => SRCNAT,
        "filter" => FILTER,
        number => number.parse().ok()?,
    };
    Some(Base { kind, hook, priority })
}

fn rule(words: &[Token<'_>], family: Family) -> Option<Rule> {
    use Token::Word;
    let (mut mark, mut source, mut destination) = (None, None, None);
    let mut words = words;
    loop {
        words = match words {
            [Word("meta"), rest @ ..] if matches!(rest, [Word("mark"), ..]) => rest,
            [
                Word("mark"),
                Word("&" | "and"),
                Word(bits),
                Word(operator),
                Word(value),
                rest @ ..,
            ] => {
                once(&mut mark, marked(bits, operator, value)?)?;
                rest
            }
            [Word(word), Word(field), rest @ ..] if *word == header(family) => {
                let (negated, net, rest) = match rest {
                    [Word("!="), Word(net), rest @ ..] => (true, net, rest),
                    [Word(net), rest @ ..] => (false, net, rest),
                    _ => return None,
                };
                let wanted = Match {
                    net: network(net, family)?,
                    negated,
                };
                match *field {
                    "saddr" => once(&mut source, wanted)?,
                    "daddr" => once(&mut destination, wanted)?,
                    _ => return None,
                }
                rest
            }
            [Word("counter"), Word("packets"), _, Word("bytes"), _, rest @ ..]
            | [Word("counter"), rest @ ..] => rest,
            verdict => {
                let verdict = match verdict {
                    [Word("return")] => Verdict::Return,
                    [Word("accept")] => Verdict::Accept,
                    [Word("masquerade")] => Verdict::Masquerade { random_fully: false },
                    [Word("masquerade"), Word("fully-random")] => Verdict::Masquerade { random_fully: true },
                    _ => return None,
                };
                return Some(Rule {
                    mark,
                    ..Rule::new(source, destination, verdict)
                });
            }
        }
    }
}

/// The bits that a comparison demands, all of them.
fn marked(bits: &str, operator: &str, value: &str) -> Option<u32> {
    let (bits, value) = (mark_number(bits)?, mark_number(value)?);
    let all = match operator {
        "==" => value == bits,
        "!=" => value == 0 && bits.is_power_of_two(),
        _ => false,
    };
    all.then_some(bits)
}

fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// A network, or an address alone.
fn network(text: &str, family: Family) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let net = text.parse().ok().or_else(address)?;
    (Family::of_net(net) == family && net == net.trunc()).then_some(net)
}

/// Something in a table, in the printed words.
pub(super) struct Object<'a> {
    /// `chain`, `set`, or whatever else; of a rule, `chain`.
    pub(super) kind: &'a str,
    /// Its name; of a rule, its chain's.
    pub(super) name: &'a str,
    /// Of a rule, what it says.
    pub(super) rule: Option<&'a str>,
}

/// What a table holds, line by line, whether we understand it or not.
pub(super) fn contents(listing: &str) -> impl Iterator<Item = Object<'_>> {
    let (mut depth, mut kind, mut name) = (0_u32, "", "");
    listing.lines().filter_map(move |line| {
        let line = line.trim();
        let opened = line
            .split_once(" # ")
            .map_or(line, |(line, _)| line)
            .strip_suffix('{');
        if let Some(opened) = opened {
            depth = depth.saturating_add(1);
            (kind, name) = opened.trim().split_once(' ').filter(|_| depth == 2)?;
            return Some(Object {
                kind,
                name,
                rule: None,
            });
        }
        if line == "}" {
            depth = depth.saturating_sub(1);
            return None;
        }
        let of_chain = kind == "chain" && !line.is_empty();
        let about_chain = line.starts_with("type ") || line.starts_with("comment ");
        (of_chain && !about_chain).then_some(Object {
            kind,
            name,
            rule: Some(line),
        })
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// What stood between quotation marks.
    Quoted(&'a str),
    Open,
    Close,
    /// Of a line, or a semicolon.
    End,
}

/// None where a quotation does not end in its line.
fn tokens(listing: &str) -> Option<Vec<Token<'_>>> {
    let mut found = Vec::new();
    for line in listing.lines() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, length) = match first {
                '#' => break,
                '{' => (Token::Open, 1),
                '}' => (Token::Close, 1),
                ';' => (Token::End, 1),
                '"' => {
                    let (quoted, _) = rest.get(1..)?.split_once('"')?;
                    (Token::Quoted(quoted), quoted.len() + 2)
                }
                _ => {
                    let is_end = |c: char| c.is_whitespace() || "{};\"".contains(c);
                    let length = rest.find(is_end).unwrap_or(rest.len());
                    (Token::Word(rest.get(..length)?), length)
                }
            };
            found.push(token);
            rest = rest.get(length..)?.trim_start();
        }
        found.push(Token::End);
    }
    Some(found)
}

enum Statement<'a, 't> {
    Is(&'a [Token<'t>]),
    Opens(&'a [Token<'t>]),
    Closes,
}

fn statements<'a, 't>(tokens: &'a [Token<'t>]) -> impl Iterator<Item = Statement<'a, 't>> {
    let mut rest = tokens;
    std::iter::from_fn(move || {
        while let [Token::End, after @ ..] = rest {
            rest = after;
        }
        let is_end = |token: &Token<'_>| matches!(token, Token::Open | Token::Close | Token::End);
        let length = rest.iter().position(is_end)?;
        let (words, after) = rest.split_at(length);
        match after {
            // A statement may end with the brace that closes its block.
            [Token::Close, after @ ..] if words.is_empty() => {
                rest = after;
                Some(Statement::Closes)
            }
            [Token::Open, after @ ..] => {
                rest = after;
                Some(Statement::Opens(words))
            }
            after => {
                rest = after;
                Some(Statement::Is(words))
            }
        }
    })
}
