//! A page of the documentation as something that can be run: its commands, each with the output it promises.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// What a code block may hold besides commands. One without a language, or one that highlights a shell, would be
/// commands that nobody runs.
const QUOTED: [&str; 6] = ["ini", "json", "rust", "text", "toml", "yaml"];
/// Has a script besides, whose lines a test of its own knows.
const README: &str = "README.md";

/// A file of the repository, with its fenced blocks.
#[derive(Debug)]
pub(crate) struct Page {
    /// Relative to the root of the repository.
    pub(crate) name: String,
    pub(crate) blocks: Vec<Block>,
    pub(crate) text: String,
}

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) info: Info,
    /// Where its first line stands.
    pub(crate) line: usize,
    pub(crate) lines: Vec<String>,
}

/// What stands behind the fence: a language, and for `console` perhaps `exit=N`, how its last command ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) language: String,
    pub(crate) exit: i32,
    /// For `rust`: the file whose text it shows, relative to the root of the repository.
    pub(crate) file: Option<PathBuf>,
}

/// One command and what it prints.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) place: Place,
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) expected: Vec<String>,
    pub(crate) exit: i32,
}

/// Whose prompt it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// `$ `
    Anywhere,
    /// `host1# ` is 0.
    Host(usize),
}

/// Why a page cannot be run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageError {
    pub(crate) place: String,
    pub(crate) problem: String,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl Page {
    pub(crate) fn read(name: &str) -> Result<Self, PageError> {
        let text = fs::read_to_string(root().join(name)).map_err(|error| PageError {
            place: name.to_owned(),
            problem: error.to_string(),
        })?;
        Self::parse(name, text)
    }

    pub(crate) fn parse(name: &str, text: String) -> Result<Self, PageError> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let fail = |problem: String| PageError {
                place: format!("{name}:{number}"),
                problem,
            };
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (Some(_), Some("")) => blocks.extend(open.take()),
                (Some(_), Some(info)) => {
                    return Err(fail(format!("a fence `{info}` inside of a block")));
                }
                (Some(block), None) => block.lines.push(line.trim_end().to_owned()),
                (None, Some(info)) => {
                    let info = Info::parse(info, name == README).map_err(fail)?;
                    open = Some(Block {
                        info,
                        line: number + 1,
                        lines: Vec::new(),
                    });
                }
                (None, None) => {}
            }
        }
        if let Some(block) = open {
            return Err(PageError {
                place: format!("{name}:{}", block.line),
                problem: "the block is not closed".into(),
            });
        }
        let page = Self {
            name: name.to_owned(),
            blocks,
            text,
        };
        page.commands()?;
        Ok(page)
    }

    /// In the order of the page.
    pub(crate) fn commands(&self) -> Result<Vec<Command>, PageError> {
        let mut commands = Vec::new();
        for block in &self.blocks {
            let (line, problem) = match block.commands() {
                Ok(of_block) => {
                    commands.extend(of_block);
                    continue;
                }
                Err(failure) => failure,
            };
            return Err(PageError {
                place: format!("{}:{line}", self.name),
                problem,
            });
        }
        Ok(commands)
    }

    /// Where a heading stands.
    ///
    /// # Panics
    /// When it stands nowhere.
    pub(crate) fn line_of(&self, heading: &str) -> usize {
        let at = self.text.lines().position(|line| line == heading);
        at.unwrap_or_else(|| panic!("{}: no {heading:?}", self.name)) + 1
    }

    /// The rows of the tables under a heading, cell by cell, with the line they stand in; headers and rules left out.
    pub(crate) fn rows(&self, heading: &str) -> Vec<(usize, Vec<String>)> {
        let level = heading.chars().take_while(|sign| *sign == '#').count();
        let mut rows = Vec::new();
        let mut inside = false;
        let mut header = true;
        for (number, line) in (1..).zip(self.text.lines()) {
            if line == heading {
                inside = true;
            } else if line.starts_with('#') && line.chars().take_while(|sign| *sign == '#').count() <= level {
                inside = false;
            }
            let Some(row) = line.strip_prefix('|').filter(|_| inside) else {
                header = true;
                continue;
            };
            if row.trim_matches(['-', '|', ' ', ':']).is_empty() {
                header = false;
            } else if !header {
                let cells = row
                    .trim_end_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().to_owned());
                rows.push((number, cells.collect()));
            }
        }
        rows
    }
}

impl Info {
    fn parse(info: &str, scripts: bool) -> Result<Self, String> {
        let mut words = info.split_whitespace();
        let language = words.next().unwrap_or_default().to_owned();
        let mut parsed = Self {
            language,
            exit: 0,
            file: None,
        };
        let known = match parsed.language.as_str() {
            "console" => true,
            "sh" => scripts,
            other => QUOTED.contains(&other),
        };
        if !known {
            return Err(format!(
                "a block of {:?}: commands are `console` with prompts, all else is one of {}",
                parsed.language,
                QUOTED.join(", ")
            ));
        }
        for word in words {
            match (parsed.language.as_str(), word.split_once('=')) {
                ("console", Some(("exit", status))) => {
                    parsed.exit = status.parse().map_err(|error| format!("{word}: {error}"))?;
                }
                ("rust", Some(("file", path))) => parsed.file = Some(path.into()),
                _ => return Err(format!("{word} is not known behind {}", parsed.language)),
            }
        }
        Ok(parsed)
    }
}

impl Block {
    fn commands(&self) -> Result<Vec<Command>, (usize, String)> {
        let numbered = (self.line..).zip(&self.lines);
        if self.info.language != "console" {
            return match numbered.clone().find(|(_, line)| prompt(line).is_some()) {
                Some((number, _)) => Err((number, format!("a command in a block of {}", self.info.language))),
                None => Ok(Vec::new()),
            };
        }
        let mut commands: Vec<Command> = Vec::new();
        for (number, line) in numbered {
            if let Some((place, text)) = prompt(line) {
                commands.push(Command {
                    place,
                    line: number,
                    text: text.to_owned(),
                    expected: Vec::new(),
                    exit: 0,
                });
                continue;
            }
            let Some(command) = commands.last_mut() else {
                return Err((number, "a console block begins with a prompt".into()));
            };
            let goes_on = command.expected.is_empty() && command.is_open();
            match line.strip_prefix("> ").or((line == ">").then_some("")) {
                Some(more) if goes_on => {
                    command.text.push('\n');
                    command.text.push_str(more);
                }
                None if goes_on => return Err((number, "the command above goes on: begin with `> `".into())),
                _ => command.expected.push(line.clone()),
            }
        }
        let last = commands
            .last_mut()
            .ok_or_else(|| (self.line, "a console block without commands".into()))?;
        last.exit = self.info.exit;
        match commands.iter().find(|command| command.is_open()) {
            Some(open) => Err((open.line, "the command does not end".into())),
            None => Ok(commands),
        }
    }
}

impl Command {
    /// Whether a shell would ask for more: after a backslash, within a here-document, or within quotes.
    fn is_open(&self) -> bool {
        if self.text.ends_with('\\') {
            return true;
        }
        let mut lines = self.text.lines();
        let first = lines.next().unwrap_or_default();
        if let Some((_, word)) = first.split_once("<<") {
            let end: String = word
                .trim_start_matches(['-', '\'', '"'])
                .chars()
                .take_while(|sign| sign.is_ascii_alphanumeric() || *sign == '_')
                .collect();
            return !lines.any(|line| line == end);
        }
        self.text.matches('\'').count() % 2 == 1
    }
}

fn prompt(line: &str) -> Option<(Place, &str)> {
    if let Some(text) = line.strip_prefix("$ ") {
        return Some((Place::Anywhere, text));
    }
    let (number, text) = line.strip_prefix("host")?.split_once("# ")?;
    let number: usize = number.parse().ok()?;
    Some((Place::Host(number.checked_sub(1)?), text))
}

/// The code of a cell, between one backtick or several.
pub(crate) fn code_spans(cell: &str) -> Vec<String> {
    let mut spans = Vec::new();
    let mut rest = cell;
    while let Some(begin) = rest.find('`') {
        rest = &rest[begin..];
        let fence: String = rest.chars().take_while(|sign| *sign == '`').collect();
        rest = &rest[fence.len()..];
        let Some(end) = rest.find(&fence) else { break };
        spans.push(rest[..end].trim().to_owned());
        rest = &rest[end + fence.len()..];
    }
    spans
}

/// Of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Result<Vec<Command>, String> {
        let page = Page::parse("page.md", text.to_owned()).map_err(|error| error.to_string())?;
        page.commands().map_err(|error| error.to_string())
    }

    #[test]
    fn what_follows_a_prompt_is_a_command_and_what_follows_that_its_output() {
        let found = commands("text\n```console\nhost2# ip link\n1: lo\n\n$ true\n```\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].place, found[0].line), (Place::Host(1), 3));
        assert_eq!(found[0].text, "ip link");
        assert_eq!(found[0].expected, ["1: lo", ""]);
        assert_eq!(found[1].place, Place::Anywhere);
    }

    #[test]
    fn a_backslash_a_here_document_and_an_open_quote_take_the_next_lines_with_them() {
        let text = "```console\nhost1# a \\\n>   b\nout\nhost1# cat <<'END'\n> $x\n>\n> END\nhost1# echo '1\n> 2'\n1\n2\n```\n";
        let found = commands(text).unwrap();
        assert_eq!(found[0].text, "a \\\n  b");
        assert_eq!(found[0].expected, ["out"]);
        assert_eq!(found[1].text, "cat <<'END'\n$x\n\nEND");
        assert_eq!(found[2].text, "echo '1\n2'");
        assert_eq!(found[2].expected, ["1", "2"]);
    }

    #[test]
    fn only_the_last_command_of_a_block_may_be_meant_to_fail() {
        let found = commands("```console exit=2\n$ true\n$ oops\n```\n").unwrap();
        assert_eq!(
            found.iter().map(|command| command.exit).collect::<Vec<_>>(),
            [0, 2]
        );
    }

    #[test]
    fn commands_that_nobody_would_run_are_refused_by_their_line() {
        for (text, said) in [
            ("```sh\nls\n```\n", "page.md:1: a block of \"sh\""),
            ("```\nls\n```\n", "page.md:1: a block of \"\""),
            (
                "```console\nls\n```\n",
                "page.md:2: a console block begins with a prompt",
            ),
            ("```console\n```\n", "page.md:2: a console block without commands"),
            ("```json\n$ ls\n```\n", "page.md:2: a command in a block of json"),
            (
                "x\n```console\n$ ls \\\nx\n```\n",
                "page.md:4: the command above goes on",
            ),
            (
                "```console\n$ cat <<END\n> x\n```\n",
                "page.md:2: the command does not end",
            ),
            ("```console fails\n$ ls\n```\n", "page.md:1: fails is not known"),
            ("```json\n{}\n", "page.md:2: the block is not closed"),
        ] {
            let error = commands(text).unwrap_err();
            assert!(error.starts_with(said), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_rows_of_a_table_are_found_under_their_heading_alone() {
        let text =
            "## A\n| x | y |\n|---|---|\n| 1 | 2 |\n### B\n| z |\n|---|\n| 3 |\n## C\n| 4 |\n|--|\n| 5 |\n";
        let page = Page::parse("page.md", text.into()).unwrap();
        let cells = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(page.rows("## A"), [(4, cells(&["1", "2"])), (8, cells(&["3"]))]);
        assert_eq!(page.rows("## C"), [(12, cells(&["5"]))]);
    }

    #[test]
    fn code_spans_may_hold_backticks() {
        assert_eq!(code_spans("`a` or `` b `c` ``"), ["a", "b `c`"]);
        assert!(code_spans("none").is_empty());
    }
}
