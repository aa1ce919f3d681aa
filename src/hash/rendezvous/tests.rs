//! Tests of the ranking.

use super::*;
use crate::hash::{
    KeyHasher,
    mixing::testing::{Numbers, members},
};

/// The whole rank of `key`, by repeatedly taking the first of the remaining members.
fn rank(ranking: &Ranking, key: u64) -> Vec<usize> {
    let mut named = Vec::new();
    while let Some(next) = ranking.first_where(key, |position| !named.contains(&position)) {
        named.push(next);
    }
    named
}

/// Some members with some weights, 0 among them.
fn some(numbers: &mut Numbers) -> Vec<(u64, u32)> {
    let heaviest = [1, 2, 5, 1000][numbers.below(4)];
    let len = numbers.below(40);
    (0..len).map(|_| (numbers.next(), numbers.below(heaviest + 1) as u32)).collect()
}

#[test]
fn the_rank_is_stable() {
    let ranking = Ranking::new(members([1, 2, 3, 1, 1]));
    // `weight / -log2(u)` in floating point, by another implementation (Python).
    let golden: [(&str, [usize; 5]); 8] = [
        ("alice", [3, 4, 1, 2, 0]),
        ("bob", [0, 2, 3, 1, 4]),
        ("carol", [2, 0, 3, 1, 4]),
        ("dave", [2, 1, 0, 4, 3]),
        ("203.0.113.7", [2, 3, 0, 1, 4]),
        ("", [2, 1, 0, 4, 3]),
        ("42", [2, 1, 0, 3, 4]),
        ("session-1", [2, 4, 1, 0, 3]),
    ];
    for (key, expected) in golden {
        let key = KeyHasher::default().hash(key.as_bytes());
        assert_eq!(rank(&ranking, key), expected);
    }
}

#[test]
fn the_ranking_agrees_with_first_of() {
    let mut numbers = Numbers(1);
    for _ in 0..400 {
        let members = some(&mut numbers);
        let ranking = Ranking::new(members.iter().copied());
        for _ in 0..20 {
            let key = numbers.next() >> numbers.below(64);
            let first = first_of(key, members.iter().copied());
            assert_eq!(ranking.first(key), first, "key {key} among {members:?}");
            assert_eq!(ranking.first_where(key, |_| true), first);
            let up = numbers.next();
            let alive = |at: usize| up >> at & 1 == 1;
            let rest = members.iter().enumerate();
            let rest = rest.map(|(at, &(tag, weight))| (tag, u32::from(alive(at)) * weight));
            assert_eq!(ranking.first_where(key, alive), first_of(key, rest));
        }
    }
}

#[test]
fn each_member_with_a_weight_is_ranked_once() {
    let mut numbers = Numbers(2);
    for _ in 0..200 {
        let members = some(&mut numbers);
        let ranking = Ranking::new(members.iter().copied());
        let mut all = rank(&ranking, numbers.next());
        all.sort_unstable();
        let expected: Vec<_> = (0..members.len()).filter(|&at| members[at].1 > 0).collect();
        assert_eq!(all, expected);
        assert_eq!(ranking.len(), expected.len());
    }
    assert_eq!(Ranking::default().first(1), None);
    assert_eq!(Ranking::new([(1, 0)]).first_where(1, |_| true), None);
}

#[test]
fn the_order_of_members_does_not_matter() {
    let mut numbers = Numbers(3);
    for _ in 0..200 {
        let members = some(&mut numbers);
        let mut shuffled: Vec<_> = members.iter().copied().enumerate().collect();
        numbers.shuffle(&mut shuffled);
        let (one, other) =
            (Ranking::new(members), Ranking::new(shuffled.iter().map(|&(_, member)| member)));
        for _ in 0..20 {
            let key = numbers.next();
            let ranked = rank(&other, key).into_iter().map(|at| shuffled[at].0);
            assert_eq!(rank(&one, key), ranked.collect::<Vec<_>>());
        }
    }
}

#[test]
fn only_keys_of_the_removed_member_move() {
    let mut numbers = Numbers(4);
    for _ in 0..100 {
        let members = some(&mut numbers);
        let full = Ranking::new(members.iter().copied());
        let Some(last) = members.len().checked_sub(1) else { continue };
        let fewer = Ranking::new(members[..last].iter().copied());
        for _ in 0..200 {
            let key = numbers.next();
            let (before, after) = (full.first(key), fewer.first(key));
            assert!(before == after || before == Some(last), "only keys of the last member move");
            let down = full.first_where(key, |at| at != last);
            assert_eq!(down, after, "a failed member ranks as a removed one");
        }
    }
}

#[test]
fn admits_is_called_for_few_members() {
    let ranking = Ranking::new(members([1; 1000]));
    let mut asked = 0;
    for key in 0..1000 {
        let first = ranking.first(key);
        ranking.first_where(key, |at| {
            asked += 1;
            Some(at) != first
        });
    }
    // The first, and then as many as set a record: the 999th harmonic number, 7.5.
    assert!((7_500..9_500).contains(&asked), "{asked} calls for 1000 keys");
}

#[test]
fn each_member_is_asked_for_once() {
    let ranking = Ranking::new(members([1, 1, 2, 5, 1]));
    for key in 0..100 {
        let mut asked = Vec::new();
        let admitted = ranking.first_where(key, |position| {
            asked.push(position);
            false
        });
        asked.sort_unstable();
        assert_eq!((admitted, &asked[..]), (None, &[0, 1, 2, 3, 4][..]));
    }
}

#[test]
fn a_member_with_the_lowest_hash_is_ranked_last() {
    let key = 7;
    // Key and tag hash to 0.
    let ranking = Ranking::new([(mix(key), 1), (1, 1)]);
    assert_eq!(rank(&ranking, key), [1, 0]);
}

#[test]
fn the_signature_changes_with_the_list() {
    let list = members([1, 2, 3]);
    let of = |list: &[(u64, u32)]| Ranking::new(list.iter().copied()).signature();
    let same = of(&list);
    assert_eq!(same, of(&members([1, 2, 3])));
    assert_eq!(same, signature(list.iter().copied()));
    assert_ne!(same, of(&members([1, 2, 4])), "another weight");
    assert_ne!(same, of(&members([1, 2])), "one less");
    assert_ne!(same, of(&members([1, 2, 3, 0])), "one of weight 0 more");
    assert_ne!(same, of(&[list[1], list[0], list[2]]), "other positions");
    assert_ne!(of(&[]), of(&[(0, 0)]), "a tag of 0");
}

#[test]
fn of_two_that_are_equal_the_higher_hash_is_first() {
    let contender = |hash, cost| Contender { hash, cost, weight: 2 };
    assert!(contender(2, 5).beats(contender(1, 5)) && !contender(1, 5).beats(contender(2, 5)));
    assert!(!contender(1, 5).beats(contender(1, 5)));
    assert!(contender(1, 4).beats(contender(2, 5)), "a lower cost comes first");
}

#[test]
fn members_of_equal_tags_are_ranked_in_the_order_of_the_list() {
    let members = [(7, 1); 6];
    let ranking = Ranking::new(members);
    for key in 0..100 {
        assert_eq!(rank(&ranking, key), [0, 1, 2, 3, 4, 5]);
        assert_eq!(first_of(key, members), Some(0));
    }
}

#[test]
fn the_signature_changes_with_every_bit_of_a_tag() {
    let of = |tag: u64| signature([(1, 1), (tag, 1)]);
    for bit in 0..64 {
        assert_ne!(of(7), of(7 ^ (1 << bit)), "bit {bit}");
    }
}
