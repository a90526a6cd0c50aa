//! What a name was probably meant to be.

/// So many slips of the pen a name may have, and at most one in this many of its letters.
const SLIPS: usize = 2;
const LETTERS_PER_SLIP: usize = 3;

/// Longer names than any known one by so much are nobody's slip.
const LONGEST: usize = 64;

/// The known name that is nearest to `name`, if it is near: the same but for case, spaces and
/// punctuation, or with a letter or two too many, missing, wrong or in the wrong order.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let letters = letters(name);
    if letters.is_empty() || letters.len() > LONGEST {
        return None;
    }
    let near = known.filter_map(|known| {
        let meant = self::letters(known);
        let slips = distance(&letters, &meant);
        (slips <= SLIPS.min(meant.len() / LETTERS_PER_SLIP)).then_some((slips, known))
    });
    // The first of several.
    near.min_by_key(|(slips, _)| *slips).map(|(_, known)| known)
}

fn letters(name: &str) -> Vec<u8> {
    let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
    letters.map(|byte| byte.to_ascii_lowercase()).collect()
}

/// The optimal string alignment distance: insertions, deletions, substitutions and swaps of
/// neighbours that make one of the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let width = b.len() + 1;
    let mut rows: Vec<usize> = (0..width * (a.len() + 1)).map(|at| at % width).collect();
    for i in 1..=a.len() {
        rows[i * width] = i;
        for j in 1..=b.len() {
            let at = |di: usize, dj: usize| rows[(i - di) * width + j - dj];
            let substituted = at(1, 1) + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(at(1, 0) + 1).min(at(0, 1) + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(at(2, 2) + 1);
            }
            rows[i * width + j] = least;
        }
    }
    rows[width * (a.len() + 1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_name_is_found_through_slips_of_every_kind() {
        let known = [
            "Network",
            "SubnetLen",
            "SubnetMin",
            "SubnetMax",
            "Backend",
            "host-gw",
        ];
        for (name, meant) in [
            ("Netwrok", Some("Network")),
            ("Netwok", Some("Network")),
            ("Netzwork", Some("Network")),
            ("Metwork", Some("Network")),
            ("Netwrkk", Some("Network")),
            ("SubnetLen ", Some("SubnetLen")),
            ("subnet_len", Some("SubnetLen")),
            ("SubnetLenght", None),
            ("SubnetMx", Some("SubnetMax")),
            ("Bakcends", Some("Backend")),
            ("hostgw", Some("host-gw")),
            ("HOST_GW", Some("host-gw")),
            ("Net", None),
            ("Comment", None),
            ("", None),
            ("¡§¶", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), meant, "{name:?}");
        }
        assert_eq!(nearest(&"Network".repeat(1000), known.into_iter()), None);
    }

    #[test]
    fn a_short_name_has_to_be_right() {
        assert_eq!(nearest("up", ["udp"].into_iter()), Some("udp"));
        assert_eq!(nearest("xy", ["udp"].into_iter()), None);
        assert_eq!(nearest("ab", ["ac"].into_iter()), None);
    }
}
