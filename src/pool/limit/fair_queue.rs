//! Wait queue, round-robin across sessions.

use std::collections::BTreeMap;

/// Waiters, grouped by the key of their session; key 0, for no session, is a group as well. The groups
/// take turns, and within a group the order is first in, first out. A waiter that is alone in its group
/// is served after at most one waiter of each other group.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    /// The last number that was assigned to a ticket or a turn.
    issued: u64,
    /// The keys of all groups, by turn.
    order: BTreeMap<u64, u64>,
    groups: BTreeMap<u64, Group<T>>,
}

/// The waiters of one session; removed when it is empty.
#[derive(Debug)]
struct Group<T> {
    turn: u64,
    queue: BTreeMap<u64, T>,
}

/// The position of a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    key: u64,
    number: u64,
}

impl<T> FairQueue<T> {
    pub(crate) const fn new() -> Self {
        Self { issued: 0, order: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// Appends a waiter to its group. A new group has its turn after all others.
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

    /// Removes the next waiter.
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

    /// The waiter with this ticket, if it is still in the queue.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.groups.get_mut(&ticket.key)?.queue.get_mut(&ticket.number)
    }

    /// Removes the waiter with this ticket, if it is still in the queue. Its group keeps its turn.
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

    fn drain(queue: &mut FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn groups_take_turns_and_keep_the_order_of_their_waiters() {
        let mut queue = FairQueue::new();
        for (key, waiter) in [(1, 10), (1, 11), (1, 12), (2, 20), (0, 1), (2, 21), (0, 2)] {
            queue.push(key, waiter);
        }
        assert_eq!(drain(&mut queue), [10, 20, 1, 11, 21, 2, 12]);
    }

    #[test]
    fn new_waiter_of_an_emptied_group_comes_after_the_others() {
        let mut queue = FairQueue::new();
        queue.push(1, 10);
        queue.push(2, 20);
        queue.push(2, 21);
        assert_eq!(queue.next(), Some(10));
        queue.push(1, 11);
        assert_eq!(drain(&mut queue), [20, 11, 21]);
    }

    #[test]
    fn removed_waiter_does_not_cost_its_group_a_turn() {
        let mut queue = FairQueue::new();
        let tickets = [(1, 10), (2, 20), (1, 11), (3, 30), (2, 21)].map(|(k, w)| queue.push(k, w));
        assert_eq!(queue.remove(tickets[0]), Some(10));
        assert_eq!(queue.remove(tickets[0]), None, "the waiter was removed");
        assert_eq!(queue.remove(tickets[3]), Some(30));
        assert_eq!(queue.get_mut(tickets[3]), None, "the waiter was removed");
        assert_eq!(queue.get_mut(tickets[2]), Some(&mut 11));
        assert_eq!(drain(&mut queue), [11, 20, 21], "the first group kept its turn");
        queue.push(3, 31);
        assert_eq!(drain(&mut queue), [31]);
        assert!(queue.groups.is_empty() && queue.order.is_empty(), "no entries are left");
    }
}
