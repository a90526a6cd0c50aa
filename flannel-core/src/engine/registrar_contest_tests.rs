//! Two hosts that publish one address, and one that was installed anew.

use super::*;

/// A host whose address is in the lease 10.5.2.0/24 of another, which it has challenged.
fn challenging() -> Fixture {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    let challenge = host.next();
    let attrs = written(&challenge);
    assert_eq!((attrs.node, challenged(&attrs)), (Some(ME), Some(OTHER)));
    host.grant(&challenge.unwrap());
    host
}

#[test]
fn a_lease_with_our_address_and_another_id_is_ours_when_its_holder_does_not_object_within_5_s() {
    let mut host = challenging();
    assert!(host.next().is_none());
    assert_eq!(host.held(), None, "before the holder had the time to object");
    let trouble = host.registrar.trouble().unwrap();
    assert!(
        trouble.contains("10.5.2.0/24") && trouble.contains("the loss of the state directory"),
        "{trouble}"
    );
    assert_eq!(host.sleep(), ms(5000));
    let keep = host.next();
    assert_eq!(written(&keep), host.attrs, "the question is taken out");
    host.grant(&keep.unwrap());
    assert_eq!(host.held(), Some(subnet(2)));
    assert_eq!(host.registrar.trouble(), None);
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), TTL * 2 / 3);
}

#[test]
fn a_holder_that_objects_keeps_its_lease_and_is_not_asked_again_however_others_change() {
    let mut host = challenging();
    host.now += ms(20);
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    for number in [0, 1, 3] {
        assert!(host.next().is_none());
        assert_alive(&host, 2);
        assert_eq!(host.registrar.wake(), None);
        host.put(host.lease(number, "192.0.2.3", Some(NodeId(9))));
    }
    // Renewed, and challenged by somebody else.
    let held = host.lease(2, MY_ADDRESS, Some(OTHER));
    for attrs in [held.attrs.clone(), challenge(&held, NodeId(9))] {
        host.put(Lease {
            attrs,
            ..held.clone()
        });
        assert!(host.next().is_none());
        assert_alive(&host, 2);
    }
}

#[test]
fn a_holder_that_took_the_place_of_one_that_objected_is_asked_for_itself() {
    let mut host = challenging();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    assert!(host.next().is_none());
    host.put(host.lease(2, MY_ADDRESS, Some(NodeId(9))));
    assert_eq!(challenged(&written(&host.next())), Some(NodeId(9)));
    // And likewise after there was none for a while.
    let mut host = challenging();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    assert!(host.next().is_none());
    host.put(host.lease(2, "192.0.2.2", Some(OTHER)));
    let claim = host.next().unwrap();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    host.refuse(&claim, unavailable());
    host.sleep();
    assert_eq!(challenged(&written(&host.next())), Some(OTHER));
}

#[test]
fn another_subnet_is_taken_as_soon_as_no_lease_carries_our_address() {
    for there in [None, Some("192.0.2.2")] {
        for objected in [false, true] {
            let mut host = challenging();
            if objected {
                host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
                assert!(host.next().is_none());
            }
            match there {
                None => host.delete(2),
                Some(address) => host.put(host.lease(2, address, Some(OTHER))),
            }
            let claim = host.next();
            created(claim.clone());
            host.grant(&claim.unwrap());
            assert_eq!(host.registrar.trouble(), None);
        }
    }
}

#[test]
fn an_objection_that_comes_before_the_answer_to_the_challenge_counts() {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    let challenge = host.next().unwrap();
    let objection = Lease {
        token: Token {
            revision: 9,
            grant: 1,
        },
        ..host.lease(2, MY_ADDRESS, Some(OTHER))
    };
    host.put(objection);
    host.answer(&challenge);
    assert!(host.next().is_none());
    assert_alive(&host, 2);
    assert_eq!(host.registrar.wake(), None);
}

#[test]
fn a_store_that_went_back_to_before_the_challenge_has_not_objected() {
    let mut host = challenging();
    let theirs = host.lease(2, MY_ADDRESS, Some(OTHER));
    host.registrar.observe_all(std::slice::from_ref(&theirs));
    host.put(theirs);
    host.registrar.history_lost();
    let challenge = host.next();
    assert_eq!(challenged(&written(&challenge)), Some(OTHER));
    host.grant(&challenge.unwrap());
    assert!(host.next().is_none());
    host.sleep();
    assert_eq!(written(&host.next()), host.attrs);
}

#[test]
fn a_challenge_that_the_watch_does_not_show_wins_nothing() {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    let challenge = host.next().unwrap();
    host.answer(&challenge);
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), ms(5000));
    assert_eq!(host.held(), None);
    // What it knows of is still another's.
    let asked = host.next();
    assert_eq!(challenged(&written(&asked)), Some(OTHER));
    host.refuse(&asked.unwrap(), unavailable());
    let theirs = host.lease(2, MY_ADDRESS, Some(OTHER));
    host.put(Lease {
        attrs: crate::challenge::challenge(&theirs, ME),
        ..theirs
    });
    host.sleep();
    assert!(host.next().is_none());
    assert_eq!(host.held(), None, "the holder's time begins anew");
    assert_eq!(host.sleep(), ms(5000));
}

#[test]
fn a_challenge_of_an_earlier_run_or_whose_reply_was_lost_has_its_5_s_before_it() {
    for lost in [false, true] {
        let mut host = Fixture::new();
        let held = host.lease(2, MY_ADDRESS, Some(OTHER));
        if lost {
            host.put(held.clone());
            let challenge = host.next().unwrap();
            host.refuse(&challenge, unavailable());
        }
        host.put(Lease {
            attrs: challenge(&held, ME),
            ..held
        });
        if lost {
            assert!(host.next().is_none());
            host.sleep();
        }
        assert!(host.next().is_none());
        assert_eq!(host.held(), None);
        assert_eq!(host.sleep(), ms(5000));
        assert_eq!(written(&host.next()), host.attrs);
    }
}

#[test]
fn a_store_that_does_not_take_a_challenge_is_tried_again_and_named() {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    for delay in [100, 200] {
        let challenge = host.next().unwrap();
        host.refuse(&challenge, unavailable());
        assert!(host.registrar.trouble().unwrap().contains("connection refused"));
        assert!(host.next().is_none());
        assert_eq!(host.sleep(), ms(delay));
        assert!(
            host.registrar.trouble().unwrap().contains("connection refused"),
            "two reasons by turns"
        );
    }
    let challenge = host.next().unwrap();
    assert!(host.registrar.trouble().unwrap().contains("connection refused"));
    host.grant(&challenge);
    assert!(host.next().is_none());
    assert!(
        host.registrar
            .trouble()
            .unwrap()
            .contains("unless that host objects")
    );
}

#[test]
fn what_a_challenged_lease_publishes_is_never_taken_for_an_address_of_ours() {
    let mut host = Fixture::new();
    let both = |v4: &str, v6: &str| PerFamily {
        v6: v6.parse().ok(),
        ..public(v4)
    };
    host.attrs.public = both(MY_ADDRESS, "fd00::1");
    let mut theirs = host.lease(2, MY_ADDRESS, Some(OTHER));
    theirs.attrs.public = both(MY_ADDRESS, "fd00::2");
    host.put(theirs.clone());
    let challenge = host.next().unwrap();
    host.grant(&challenge);
    assert!(host.next().is_none());
    host.sleep();
    let keep = host.next().unwrap();
    assert_eq!(written(&Some(keep.clone())).public, host.attrs.public);
    host.grant(&keep);
    assert_eq!(host.held(), Some(subnet(2)));
    assert_eq!(host.registrar.published, [host.attrs.public]);
}

#[test]
fn a_lease_won_and_lost_again_before_it_is_written_is_asked_about_anew() {
    let mut host = pinned(1);
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    let challenge = host.next().unwrap();
    host.grant(&challenge);
    assert!(host.next().is_none());
    host.sleep();
    let claim = host.next().unwrap();
    created(Some(claim.clone()));
    // It comes back late, and somebody asks it in our name, as after a restart.
    let theirs = host.lease(2, MY_ADDRESS, Some(OTHER));
    host.put(theirs.clone());
    host.refuse(&claim, unavailable());
    host.put(Lease {
        attrs: crate::challenge::challenge(&theirs, ME),
        ..theirs
    });
    host.sleep();
    assert!(host.next().is_none(), "before its holder had the time to object");
}

#[test]
fn a_challenge_to_a_lease_that_is_lost_since_is_nothing_to_object_to() {
    let mut host = Fixture::holding();
    host.sleep();
    let keep = host.next().unwrap();
    let own = host.registrar.own().unwrap().clone();
    host.put(Lease {
        attrs: challenge(&own, OTHER),
        ..own
    });
    host.refuse(&keep, StoreError::LeaseLost { subnet: subnet(1) });
    assert_eq!(host.held(), None);
    // Somebody has put it back meanwhile.
    host.put(host.lease(1, MY_ADDRESS, Some(ME)));
    host.sleep();
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(1)));
    assert!(host.next().is_none(), "objected to what is long gone");
}

#[test]
fn a_lease_won_that_is_not_wanted_is_given_back() {
    let mut host = pinned(1);
    host.put(host.lease(2, MY_ADDRESS, Some(OTHER)));
    let challenge = host.next().unwrap();
    host.grant(&challenge);
    assert!(host.next().is_none());
    host.sleep();
    let claim = host.next();
    assert_eq!(created(claim.clone()), subnet(1));
    host.grant(&claim.unwrap());
    assert!(matches!(host.next(), Some(Request::Release(lease)) if lease.subnet == subnet(2)));
}

#[test]
fn a_lease_whose_holder_may_yet_object_is_not_given_back() {
    let mut host = Fixture::new();
    let theirs = host.lease(2, MY_ADDRESS, Some(OTHER));
    host.put(Lease {
        attrs: challenge(&theirs, ME),
        ..theirs
    });
    host.put(host.lease(1, MY_ADDRESS, Some(ME)));
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(1)));
    assert!(host.next().is_none(), "its holder may live");
}

#[test]
fn a_neighbours_address_is_not_even_asked_for() {
    let mut host = Fixture::new();
    host.neighbours = true;
    for node in [Some(OTHER), None] {
        host.put(host.lease(2, MY_ADDRESS, node));
        assert!(host.next().is_none());
        assert_eq!((host.held(), host.registrar.wake()), (None, None));
        let trouble = host.registrar.trouble().unwrap();
        assert!(trouble.contains("no address of this host"), "{trouble}");
    }
    // The address was put on the uplink.
    host.neighbours = false;
    host.registrar.reconsider();
    assert_eq!(taken_over(host.next()).subnet, subnet(2));
}

#[test]
fn whoever_asks_whether_we_live_is_told_so_at_once_and_our_lease_is_ours_all_the_while() {
    let mut host = Fixture::holding();
    assert_eq!(host.registrar.rival(host.now), None);
    for _ in 0..2 {
        let own = host.registrar.own().unwrap().clone();
        host.put(Lease {
            attrs: challenge(&own, OTHER),
            token: Token {
                revision: own.token.revision + 1,
                grant: 2,
            },
            ..own
        });
        assert_eq!(host.held(), Some(subnet(1)));
        let objection = host.next();
        assert_eq!(taken_over(objection.clone()).attrs.node, Some(OTHER));
        assert_eq!(written(&objection), host.attrs, "the question is taken out");
        host.grant(&objection.unwrap());
        assert_eq!(host.held(), Some(subnet(1)));
        assert!(host.next().is_none(), "objected to nothing");
        let rival = host.registrar.rival(host.now).unwrap();
        let named = [
            "another host, node 00000000000000000000000000000008,",
            "our address 192.0.2.1",
            "10.5.1.0/24",
            "--public-ip",
        ];
        assert!(named.iter().all(|part| rival.contains(part)), "{rival}");
        host.now += ms(599_000);
        assert!(host.registrar.rival(host.now).is_some());
    }
    host.now += ms(1_000);
    assert_eq!(host.registrar.rival(host.now), None);
    assert!(!host.registrar.lost);
}

#[test]
fn an_objection_that_fails_is_tried_again_until_the_challenge_is_gone() {
    let mut host = Fixture::holding();
    let own = host.registrar.own().unwrap().clone();
    let asked = Lease {
        attrs: challenge(&own, OTHER),
        ..own.clone()
    };
    host.put(asked);
    for error in [unavailable(), StoreError::Taken { subnet: subnet(1) }] {
        let objection = host.next();
        assert_eq!(written(&objection), host.attrs);
        host.refuse(&objection.unwrap(), error);
        assert!(host.next().is_none());
        host.sleep();
    }
    host.put(own);
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(1)));
}

#[test]
fn a_second_challenge_that_comes_before_the_answer_to_our_objection_is_objected_to_as_well() {
    let mut host = Fixture::holding();
    let own = host.registrar.own().unwrap().clone();
    let asked = |by: u128| Lease {
        attrs: challenge(&own, NodeId(by)),
        token: Token {
            revision: 10 + by as u64,
            grant: 2,
        },
        ..own.clone()
    };
    host.put(asked(8));
    let objection = host.next().unwrap();
    // Written over our objection.
    host.put(asked(9));
    host.answer(&objection);
    assert_eq!(taken_over(host.next()).attrs.node, Some(NodeId(9)));
}

#[test]
fn a_challenge_found_at_the_start_is_objected_to_at_once() {
    let mut host = Fixture::new();
    let held = host.lease(2, MY_ADDRESS, Some(ME));
    host.put(Lease {
        attrs: challenge(&held, OTHER),
        ..held
    });
    let objection = host.next();
    assert_eq!(taken_over(objection.clone()).attrs.node, Some(OTHER));
    assert_eq!(written(&objection), host.attrs);
}

#[test]
fn two_hosts_of_one_address_come_to_one_lease_and_one_that_waits() {
    for order in 0..2 {
        let mut server = Server::default();
        let mut hosts = [Fixture::new(), Fixture::new()];
        hosts[1].registrar.node = OTHER;
        hosts[1].attrs.node = Some(OTHER);
        let start = hosts[0].now;
        hosts[1].now = start;
        let mut heard = [0, 0];
        // The first starts first, or both at once; every millisecond each is asked once.
        for step in 0..20_000 {
            for (number, host) in hosts.iter_mut().enumerate() {
                host.now = start + ms(step);
                if number == 1 && order == 0 && step < 50 {
                    continue;
                }
                while heard[number] < server.events.len() {
                    let (subnet, lease) = server.events[heard[number]].clone();
                    heard[number] += 1;
                    host.registrar.observe(&subnet, lease.as_ref());
                    host.generation += 1;
                    match lease {
                        Some(lease) => drop(host.leases.insert(lease)),
                        None => drop(host.leases.remove(&subnet)),
                    }
                }
                if let Some(request) = host.next() {
                    let result = server.serve(&request, host.now);
                    host.registrar.done(&request, result, host.now);
                }
            }
        }
        let held: Vec<SubnetKey> = hosts.iter().filter_map(Fixture::held).collect();
        if order == 0 {
            assert_eq!(held.len(), 1, "{held:?}");
            assert!(hosts[0].held().is_some(), "the newcomer won");
            assert!(hosts[1].registrar.trouble().unwrap().contains("which is alive"));
            assert!(hosts[0].registrar.rival(hosts[0].now).is_some());
        }
        // Who takes a subnet in the same instant cannot know; admission keeps them apart.
        assert!(!held.is_empty());
        assert_eq!(server.leases.len(), held.len());
    }
}
