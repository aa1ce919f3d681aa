//! Whose turn it is: a queue that is fair between sessions.

use std::collections::BTreeMap;

/// Those that wait, grouped by the key of their session; 0, for no key, is a group like any other.
/// The groups take turns, and within a group who came first is first. So one that waits alone is
/// served after at most one of each other group, however many wait there.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    /// Tickets and turns are numbered in the order in which they are given.
    issued: u64,
    /// The keys of the groups in which somebody waits, by turn.
    order: BTreeMap<u64, u64>,
    groups: BTreeMap<u64, Group<T>>,
}

/// It is there while somebody waits in it.
#[derive(Debug)]
struct Group<T> {
    turn: u64,
    queue: BTreeMap<u64, T>,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    key: u64,
    number: u64,
}

impl<T> FairQueue<T> {
    pub(crate) const fn new() -> Self {
        Self { issued: 0, order: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// The end of the group's queue. A group that is new has its turn after all others.
    pub(crate) fn push(&mut self, key: u64, waiter: T) -> Ticket {
        self.issued += 1;
        let number = self.issued;
        let group = self.groups.entry(key).or_insert_with(|| {
            self.order.insert(number, key);
            Group { turn: number, queue: BTreeMap::new() }
        });
        group.queue.insert(number, waiter);
        Ticket { key, number }
    }

    /// Takes out the next in turn.
    pub(crate) fn next(&mut self) -> Option<T> {
        let (_, key) = self.order.pop_first()?;
        let group = self.groups.get_mut(&key)?;
        let (_, waiter) = group.queue.pop_first()?;
        if group.queue.is_empty() {
            self.groups.remove(&key);
        } else {
            self.issued += 1;
            group.turn = self.issued;
            self.order.insert(self.issued, key);
        }
        Some(waiter)
    }

    /// The one with this ticket, unless it is out.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.groups.get_mut(&ticket.key)?.queue.get_mut(&ticket.number)
    }

    /// Takes out the one with this ticket, unless it is out. Its group keeps its turn.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let group = self.groups.get_mut(&ticket.key)?;
        let waiter = group.queue.remove(&ticket.number)?;
        if group.queue.is_empty() {
            self.order.remove(&group.turn);
            self.groups.remove(&ticket.key);
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::FairQueue;

    fn all(turns: &mut FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| turns.next()).collect()
    }

    #[test]
    fn groups_take_turns_and_are_queues_themselves() {
        let mut turns = FairQueue::new();
        for (key, waiter) in [(1, 10), (1, 11), (1, 12), (2, 20), (0, 1), (2, 21), (0, 2)] {
            turns.push(key, waiter);
        }
        assert_eq!(all(&mut turns), [10, 20, 1, 11, 21, 2, 12]);
    }

    #[test]
    fn who_comes_back_comes_after_the_others() {
        let mut turns = FairQueue::new();
        turns.push(1, 10);
        turns.push(2, 20);
        turns.push(2, 21);
        assert_eq!(turns.next(), Some(10));
        turns.push(1, 11);
        assert_eq!(all(&mut turns), [20, 11, 21]);
    }

    #[test]
    fn who_leaves_takes_no_turn_with_them() {
        let mut turns = FairQueue::new();
        let tickets = [(1, 10), (2, 20), (1, 11), (3, 30), (2, 21)].map(|(k, w)| turns.push(k, w));
        assert_eq!(turns.remove(tickets[0]), Some(10));
        assert_eq!(turns.remove(tickets[0]), None, "it is out");
        assert_eq!(turns.remove(tickets[3]), Some(30));
        assert_eq!(turns.get_mut(tickets[3]), None, "it is out");
        assert_eq!(turns.get_mut(tickets[2]), Some(&mut 11));
        assert_eq!(all(&mut turns), [11, 20, 21], "the first group kept its turn");
        turns.push(3, 31);
        assert_eq!(all(&mut turns), [31]);
        assert!(turns.groups.is_empty() && turns.order.is_empty(), "nothing is kept of them");
    }
}
