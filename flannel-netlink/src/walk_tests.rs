use super::*;

const V4: Family = Family::V4;

fn rule(reach: Reach, action: Action) -> Rule {
    Rule {
        family: None,
        reach,
        way: None,
        action,
    }
}

fn net(text: &str) -> Reach {
    Reach::Network(text.parse().unwrap())
}

fn accept(reach: Reach) -> Rule {
    rule(reach, Action::Accept)
}

fn drop_all() -> Rule {
    rule(Reach::All, Action::Drop)
}

fn jump(reach: Reach, chain: &str) -> Rule {
    rule(reach, Action::Jump(chain.to_owned()))
}

fn goto(reach: Reach, chain: &str) -> Rule {
    rule(reach, Action::Goto(chain.to_owned()))
}

fn give_back(reach: Reach) -> Rule {
    rule(reach, Action::Return)
}

/// What is accepted by the first of some chains, if it drops.
fn drops_by(policy: Policy, chains: &[(&str, &[Rule])]) -> Option<Vec<String>> {
    let read = |name: &str| {
        let found = chains.iter().find(|(chain, _)| *chain == name);
        Ok(found.map(|(_, rules)| rules.to_vec()))
    };
    let accepts = Walk::new(read).drops(chains[0].0, policy, V4, None).unwrap();
    accepts.map(|accepts| accepts.iter().map(ToString::to_string).collect())
}

/// The same where the policy accepts.
fn drops(chains: &[(&str, &[Rule])]) -> Option<Vec<String>> {
    drops_by(Policy::Accept, chains)
}

fn some<const N: usize>(nets: [&str; N]) -> Option<Vec<String>> {
    Some(nets.map(str::to_owned).to_vec())
}

#[test]
fn a_chain_drops_by_its_policy_or_by_a_rule_about_everything() {
    assert_eq!(drops(&[("f", &[])]), None);
    assert_eq!(drops_by(Policy::Drop, &[("f", &[])]), some([]));
    assert_eq!(drops(&[("f", &[drop_all()])]), some([]));
    for reach in [Reach::Some, Reach::Unknown, net("10.5.0.0/16")] {
        assert_eq!(drops(&[("f", &[rule(reach, Action::Drop)])]), None, "{reach:?}");
    }
}

#[test]
fn what_is_accepted_counts_before_it_is_dropped_and_not_after() {
    let rules = [
        accept(net("10.5.0.0/16")),
        accept(Reach::Some),
        drop_all(),
        accept(net("10.6.0.0/16")),
        accept(Reach::Unknown),
    ];
    assert_eq!(drops(&[("f", &rules)]), some(["10.5.0.0/16"]));
    assert_eq!(
        drops_by(Policy::Drop, &[("f", &rules)]),
        some(["10.5.0.0/16"]),
        "whatever the policy"
    );
    assert_eq!(
        drops(&[("f", &[accept(Reach::Unknown), drop_all()])]),
        some(["0.0.0.0/0"]),
        "perhaps all"
    );
    assert_eq!(drops(&[("f", &[accept(Reach::All), drop_all()])]), None);
}

#[test]
fn a_chain_that_all_packets_are_led_to_drops_for_the_one_that_leads_there() {
    let deny = [drop_all()];
    for lead in [jump, goto] {
        let chains: [(&str, &[Rule]); 2] = [
            ("f", &[lead(Reach::All, "deny"), accept(net("10.5.0.0/16"))]),
            ("deny", &deny),
        ];
        assert_eq!(drops(&chains), some([]));
        for reach in [Reach::Some, Reach::Unknown, net("10.5.0.0/16")] {
            let chains: [(&str, &[Rule]); 2] = [("f", &[lead(reach, "deny")]), ("deny", &deny)];
            assert_eq!(drops(&chains), None, "{reach:?}");
        }
    }
}

#[test]
fn packets_come_back_from_a_jump_and_not_from_a_goto() {
    let pods = [accept(net("10.5.0.0/16"))];
    let after = |lead: fn(Reach, &str) -> Rule| {
        drops(&[("f", &[lead(Reach::All, "pods"), drop_all()]), ("pods", &pods)])
    };
    assert_eq!(after(jump), some(["10.5.0.0/16"]));
    assert_eq!(after(goto), None, "the policy decides");
    // A chain that was gone to leads back to where this one was called.
    let nested = drops(&[
        ("f", &[jump(Reach::All, "a"), drop_all()]),
        ("a", &[goto(Reach::All, "pods"), accept(net("10.6.0.0/16"))]),
        ("pods", &pods),
    ]);
    assert_eq!(nested, some(["10.5.0.0/16"]));
}

#[test]
fn what_a_chain_gives_back_before_it_drops_is_not_dropped_there() {
    let chains = |then: Rule| -> Option<Vec<String>> {
        drops(&[
            ("f", &[jump(Reach::All, "deny"), then]),
            ("deny", &[give_back(net("10.5.0.0/16")), drop_all()]),
        ])
    };
    assert_eq!(chains(drop_all()), some([]));
    assert_eq!(chains(accept(Reach::Some)), some(["10.5.0.0/16"]), "by policy");
    assert_eq!(
        chains(accept(net("10.5.7.0/24"))),
        some(["10.5.0.0/16", "10.5.7.0/24"])
    );
    let given_back_at_last = drops(&[
        ("f", &[jump(Reach::All, "user"), drop_all()]),
        ("user", &[give_back(Reach::All), accept(Reach::All)]),
    ]);
    assert_eq!(given_back_at_last, some([]));
}

#[test]
fn a_network_is_as_narrow_as_all_that_leads_to_it() {
    for (lead, then, accepted) in [
        (net("10.5.0.0/16"), Reach::All, &["10.5.0.0/16"][..]),
        (net("10.5.0.0/16"), net("10.5.7.0/24"), &["10.5.7.0/24"]),
        (net("10.5.7.0/24"), net("10.5.0.0/16"), &["10.5.7.0/24"]),
        // From one to the other.
        (net("10.5.0.0/16"), net("10.6.0.0/16"), &[]),
        (net("10.5.0.0/16"), Reach::Some, &[]),
        (net("10.5.0.0/16"), Reach::Unknown, &["10.5.0.0/16"]),
        (Reach::Some, Reach::All, &[]),
        (Reach::Some, net("10.5.0.0/16"), &["10.5.0.0/16"]),
        (Reach::Some, Reach::Unknown, &["0.0.0.0/0"]),
        (Reach::Unknown, Reach::All, &["0.0.0.0/0"]),
        (Reach::Unknown, Reach::Some, &[]),
        (Reach::All, Reach::Unknown, &["0.0.0.0/0"]),
    ] {
        let chains: [(&str, &[Rule]); 2] = [("f", &[jump(lead, "a")]), ("a", &[accept(then)])];
        let expected: Vec<String> = accepted.iter().map(|net| (*net).to_owned()).collect();
        assert_eq!(
            drops_by(Policy::Drop, &chains),
            Some(expected),
            "{lead:?} {then:?}"
        );
    }
}

#[test]
fn rules_of_the_other_family_are_passed_over() {
    let other = Rule {
        family: Some(Family::V6),
        ..drop_all()
    };
    let rules = [
        other,
        accept(net("fd07::/48")),
        accept(net("10.5.0.0/16")),
        drop_all(),
    ];
    assert_eq!(drops(&[("f", &rules)]), some(["10.5.0.0/16"]));
    let rules = [
        Rule {
            family: Some(V4),
            ..drop_all()
        },
        accept(Reach::All),
    ];
    assert_eq!(drops(&[("f", &rules)]), some([]));
}

#[test]
fn beyond_its_limits_nothing_is_known_and_perhaps_all_is_accepted() {
    let everything = some(["0.0.0.0/0"]);
    let unread = drops_by(Policy::Drop, &[("f", &[jump(Reach::Some, "missing")])]);
    assert_eq!(unread, everything);
    assert_eq!(drops(&[("f", &[jump(Reach::All, "missing"), drop_all()])]), None);

    // Chains that each lead to the next twice are passed more often than anybody can wait for.
    let names: Vec<String> = (0..16).map(|n| format!("c{n}")).collect();
    let twice: Vec<Vec<Rule>> = (1..=16)
        .map(|n| vec![jump(Reach::Some, &format!("c{n}")); 3])
        .collect();
    let read = |chain: &str| {
        let rules = names.iter().zip(&twice).find(|(name, _)| *name == chain);
        Ok(Some(rules.map_or_else(Vec::new, |(_, rules)| rules.clone())))
    };
    let mut walk = Walk::new(read);
    let accepts = walk.drops("c0", Policy::Drop, V4, None).unwrap().unwrap();
    assert_eq!(accepts, ["0.0.0.0/0".parse::<IpNet>().unwrap()]);

    // So is a loop, which the kernel would refuse.
    let looped = drops_by(Policy::Drop, &[("f", &[jump(Reach::Some, "f")])]);
    assert_eq!(looped, everything);

    let wide: Vec<Rule> = (0..200).map(|n| jump(Reach::Some, &format!("c{n}"))).collect();
    let mut read = 0;
    let mut walk = Walk::new(|chain: &str| {
        read += 1;
        Ok(Some(if chain == "f" { wide.clone() } else { Vec::new() }))
    });
    let accepts = walk.drops("f", Policy::Drop, V4, None).unwrap().unwrap();
    assert_eq!(accepts, ["0.0.0.0/0".parse::<IpNet>().unwrap()]);
    assert_eq!(read, CHAINS);

    let many = |count: u32| -> Option<Vec<String>> {
        let rules: Vec<Rule> = (0..count)
            .map(|n| accept(Reach::Network(IpNet::new(n.to_be_bytes().into(), 32).unwrap())))
            .collect();
        drops_by(Policy::Drop, &[("f", &rules)])
    };
    assert_eq!(many(1024).unwrap().len(), 1024);
    assert_eq!(many(1025), everything);
}

#[test]
fn many_networks_that_are_given_back_are_perhaps_all() {
    let back = |count: u8| {
        let mut deny: Vec<Rule> = (0..count)
            .map(|n| give_back(net(&format!("10.5.{n}.0/24"))))
            .collect();
        deny.push(drop_all());
        drops(&[("f", &[jump(Reach::All, "deny")]), ("deny", &deny)])
    };
    assert_eq!(back(64).unwrap().len(), 64);
    assert_eq!(back(65), some(["0.0.0.0/0"]));
}

#[test]
fn a_refusal_to_read_is_an_error() {
    let mut walk = Walk::new(|_: &str| {
        Err(KernelError::Unstable {
            doing: "read",
            times: 8,
        })
    });
    assert!(walk.drops("f", Policy::Drop, V4, None).is_err());
}
