//! Whether what a command printed fits what the page promises.

/// Stands for anything: within a line for some of it, alone on a line for any lines.
const ANYTHING: &str = "…";

/// Line by line; blanks at the ends of lines and empty lines at the end do not count.
pub(crate) fn fits(expected: &[String], printed: &str) -> bool {
    let printed: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
    let mut expected: Vec<&str> = expected.iter().map(|line| line.trim_end()).collect();
    while expected.last().is_some_and(|line| line.is_empty()) {
        expected.pop();
    }
    glob(
        &expected,
        &printed,
        &|line| line.trim() == ANYTHING,
        &|line, printed| line_fits(line, printed),
    )
}

fn line_fits(expected: &str, printed: &str) -> bool {
    let expected: Vec<char> = expected.chars().collect();
    let printed: Vec<char> = printed.chars().collect();
    let anything = |sign: &char| ANYTHING.contains(*sign);
    glob(&expected, &printed, &anything, &|sign, printed| sign == printed)
}

/// The usual matching with one point to come back to: the last wildcard takes one more.
fn glob<P, T>(
    pattern: &[P],
    items: &[T],
    is_wild: &dyn Fn(&P) -> bool,
    same: &dyn Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while item < items.len() {
        if pattern.get(at).is_some_and(is_wild) {
            back = Some((at, item));
            at += 1;
        } else if pattern.get(at).is_some_and(|wanted| same(wanted, &items[item])) {
            at += 1;
            item += 1;
        } else if let Some((wild, taken)) = back {
            back = Some((wild, taken + 1));
            at = wild + 1;
            item = taken + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(is_wild)
}

/// Whether the lines are printed in this order, whatever stands between them and whatever the numbers and addresses are.
pub(crate) fn is_excerpt(expected: &[String], printed: &str) -> bool {
    let mut printed = printed.lines().map(shape);
    let mut expected = expected
        .iter()
        .filter(|line| !matches!(line.trim(), "" | "..." | ANYTHING));
    expected.all(|line| printed.any(|found| found == shape(line)))
}

/// A line with its numbers and addresses, and the padding between columns, made alike.
fn shape(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let core = word.trim_matches(|sign: char| !sign.is_ascii_alphanumeric());
        let is_name = core.starts_with("host") || core == "eth0";
        if core.contains(|sign: char| sign.is_ascii_digit()) && !is_name {
            word.replace(core, "#")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: &[&str], printed: &str) -> bool {
        fits(
            &lines.iter().map(ToString::to_string).collect::<Vec<_>>(),
            printed,
        )
    }

    #[test]
    fn an_ellipsis_stands_for_part_of_a_line_or_for_lines() {
        assert!(page(&["a … c", "…", "z"], "a b c\n1\n2\nz\n"));
        assert!(page(&["a…", "…"], "abc\n"));
        assert!(page(&["…", "x…y…z", "…"], "1\nx--y--y--z\n2\n"));
        assert!(page(&[], "\n"));
    }

    #[test]
    fn what_is_not_promised_does_not_fit() {
        assert!(!page(&["a"], "a\nb\n"));
        assert!(!page(&["a", "b"], "a\n"));
        assert!(!page(&["a … c"], "a b d\n"));
        assert!(!page(&["a", "…", "z"], "a\nb\n"));
        assert!(!page(&[], "error\n"));
    }

    #[test]
    fn blanks_at_the_end_of_a_line_are_not_seen_by_readers() {
        assert!(page(&["a", ""], "a  \n"));
        assert!(!page(&["a"], "  a\n"));
    }

    #[test]
    fn an_excerpt_has_its_lines_in_order_and_any_numbers() {
        let printed =
            "start\nhost1  10.77.72.0/24   via fd00:77::11\n\n[  0.3 s] after 1.3 ms: up (0.5 s)\nend\n";
        let excerpt = |lines: &[&str]| {
            is_excerpt(
                &lines.iter().map(ToString::to_string).collect::<Vec<_>>(),
                printed,
            )
        };
        assert!(excerpt(&[
            "host1 10.77.7.0/24 via fd00:77::2",
            "...",
            "[ 12.9 s] after 20 ms: up (10 s)"
        ]));
        assert!(!excerpt(&[
            "[ 12.9 s] after 20 ms: up (10 s)",
            "host1 10.77.7.0/24 via fd00:77::2"
        ]));
        assert!(!excerpt(&["host2 10.77.7.0/24 via fd00:77::2"]));
        assert!(!excerpt(&["[ 12.9 s] after 20 ms: down (10 s)"]));
    }
}
