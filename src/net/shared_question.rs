//! One question that many sessions share while one thread finds the answer: the addresses of a name, or the
//! user of a password.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::poll::{Edge, Owner};

/// A question under way, shared by all sessions that wait for its answer.
pub struct Question<A>(Mutex<Askers<A>>);

struct Askers<A> {
    waiting: HashMap<u64, Owner>,
    /// How many of the askers may have gone.
    receded: usize,
    next: u64,
    answer: Option<A>,
}

impl<A> Default for Question<A> {
    fn default() -> Self {
        Self(Mutex::new(Askers { waiting: HashMap::new(), receded: 0, next: 0, answer: None }))
    }
}

/// A place among the sessions that wait for one answer. Dropping it leaves. A question without places needs
/// no answer.
pub struct QuestionPlace<A> {
    question: Arc<Question<A>>,
    number: u64,
    receded: bool,
}

impl<A> Question<A> {
    /// Adds `owner`, which gets an edge once there is an answer.
    pub fn join(self: &Arc<Self>, owner: Owner) -> QuestionPlace<A> {
        let mut askers = self.0.lock();
        let number = askers.next;
        askers.next += 1;
        askers.waiting.insert(number, owner);
        QuestionPlace { question: Arc::clone(self), number, receded: false }
    }

    /// Whether any asker still waits.
    pub fn is_awaited(&self) -> bool {
        !self.0.lock().waiting.is_empty()
    }

    /// Whether any asker still waits that has not [receded](QuestionPlace::recede).
    pub fn is_surely_awaited(&self) -> bool {
        let askers = self.0.lock();
        askers.waiting.len() > askers.receded
    }

    /// Gives the answer to every asker.
    pub fn answer(&self, answer: A) {
        let woken = {
            let mut askers = self.0.lock();
            askers.answer = Some(answer);
            std::mem::take(&mut askers.waiting)
        };
        for Owner { who, tag } in woken.into_values() {
            // A hint like any edge: the asker may have given up and gone.
            let _ = who.wake(tag, Edge::default());
        }
    }
}

impl<A: Clone> QuestionPlace<A> {
    /// The answer, once there is one.
    pub fn answer(&self) -> Option<A> {
        self.question.0.lock().answer.clone()
    }
}

impl<A> QuestionPlace<A> {
    /// Notes that the owner of this place may have gone. `false` if that was already known.
    pub fn recede(&mut self) -> bool {
        if !self.receded {
            self.question.0.lock().receded += 1;
        }
        !std::mem::replace(&mut self.receded, true)
    }
}

impl<A> Drop for QuestionPlace<A> {
    fn drop(&mut self) {
        let owner = {
            let mut askers = self.question.0.lock();
            askers.receded -= usize::from(self.receded);
            askers.waiting.remove(&self.number)
        };
        // Without the lock, because it may be the last reference to a slot.
        drop(owner);
    }
}

impl<A> fmt::Debug for QuestionPlace<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asked({})", self.number)
    }
}
