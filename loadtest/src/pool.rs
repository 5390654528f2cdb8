//! The threads that carry light sessions: each an epoll loop over many sockets.
//!
//! Sessions come through a door, stay until they are over, and hand their role back. One loop serves thousands. Knows nothing of
//! media: that is the seat's. Started by `run`, fed by `session`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc;

use crate::peer::Over;
use crate::seat::{Room, Seat, Turn};
use crate::vitals::{Shared, Vitals};

/// Sessions on their way through one loop's door; past it `take` waits.
const DOOR: usize = 1024;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

/// A loop with more seats than this rests between turns, so that packets pile up and neither side pays one wake-up each.
const REST_FROM: usize = 48;

/// That rest. It delays what we answer, never what we measure: packets carry the kernel's time.
const REST: Duration = Duration::from_micros(500);

/// Bells are the door's token.
const DOOR_TOKEN: Token = Token(usize::MAX);

/// The loops.
pub(crate) struct Pool {
    loops: Vec<Door>,
    next: AtomicUsize,
    ports: Mutex<HashSet<u16>>,
}

struct Door {
    seats: Option<mpsc::Sender<Box<dyn Seat>>>,
    bell: Arc<Waker>,
    vitals: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` loops named `name`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let loops = (0..threads).map(|n| Door::open(format!("{name}-{n}")));
        let loops = loops.collect::<std::io::Result<_>>()?;
        Ok(Self { loops, next: AtomicUsize::new(0), ports: Mutex::default() })
    }

    /// Gives a session to a loop.
    pub(crate) async fn take(&self, mut seat: Box<dyn Seat>) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len().max(1);
        if let Ok(local) = seat.socket().local_addr() {
            self.ports.lock().expect("nobody panics while holding it").insert(local.port());
        }
        if let Some(door) = self.loops.get(next)
            && let Some(seats) = &door.seats
        {
            // A loop ends only after its door is closed; a seat that is dropped tells its session so.
            let _ = seats.send(seat).await;
            let _ = door.bell.wake();
        }
    }

    /// Makes every session look at its phase.
    pub(crate) fn ring(&self) {
        for door in &self.loops {
            let _ = door.bell.wake();
        }
    }

    /// What each loop says of itself.
    pub(crate) fn vitals(&self) -> impl Iterator<Item = &Shared> {
        self.loops.iter().map(|door| door.vitals.as_ref())
    }

    /// Local ports of all sockets there ever were.
    pub(crate) fn ports(&self) -> HashSet<u16> {
        self.ports.lock().expect("nobody panics while holding it").clone()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for door in &mut self.loops {
            door.seats = None;
            let _ = door.bell.wake();
        }
        for thread in self.loops.iter_mut().filter_map(|door| door.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a loop panicked (a bug of this tool)");
            }
        }
    }
}

impl Door {
    fn open(name: String) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Arc::new(Waker::new(poll.registry(), DOOR_TOKEN)?);
        let (seats, door) = mpsc::channel(DOOR);
        let vitals = Arc::new(Shared::default());
        let shared = vitals.clone();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || Loop::new(poll, door, shared).run())?;
        Ok(Self { seats: Some(seats), bell, vitals, thread: Some(thread) })
    }
}

struct Loop {
    poll: Poll,
    door: mpsc::Receiver<Box<dyn Seat>>,
    seats: Vec<Option<Occupied>>,
    free: Vec<usize>,
    occupied: usize,
    /// When a seat wants its turn; entries that do not match the seat's own time are stale.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    room: Room,
    vitals: Vitals,
    shared: Arc<Shared>,
}

struct Occupied {
    seat: Box<dyn Seat>,
    /// The earliest timer set for it.
    timer: Option<Instant>,
}

impl Loop {
    fn new(poll: Poll, door: mpsc::Receiver<Box<dyn Seat>>, shared: Arc<Shared>) -> Self {
        Self {
            poll,
            door,
            seats: Vec::new(),
            free: Vec::new(),
            occupied: 0,
            timers: BinaryHeap::new(),
            room: Room::new(),
            vitals: Vitals::new(),
            shared,
        }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        // Seats that had more to read than one turn allows.
        let mut unfinished: Vec<usize> = Vec::new();
        loop {
            let timeout = if unfinished.is_empty() {
                self.timers
                    .peek()
                    .map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()))
            } else {
                Some(Duration::ZERO)
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!("waiting for sockets: {error}");
                return;
            }
            let turn = Turn::begin();
            let rung = events.iter().any(|event| event.token() == DOOR_TOKEN);
            let readable = events.iter().map(|event| event.token()).filter(|t| *t != DOOR_TOKEN);
            let again = std::mem::take(&mut unfinished);
            for index in readable.map(|token| token.0).chain(again) {
                if self.read(&turn, index) {
                    unfinished.push(index);
                }
            }
            self.timers(Instant::now());
            if rung && !self.answer_bell(Instant::now()) {
                return;
            }
            self.shared.publish(&mut self.vitals);
            if self.occupied > REST_FROM && unfinished.is_empty() {
                std::thread::sleep(REST);
            }
        }
    }

    fn read(&mut self, turn: &Turn, index: usize) -> bool {
        let Some(Some(occupied)) = self.seats.get_mut(index) else { return false };
        match occupied.seat.readable(turn, &mut self.room, &mut self.vitals) {
            Ok(more) => {
                self.set_timer(index);
                more
            }
            Err(over) => {
                self.empty(index, turn.now, Err(over));
                false
            }
        }
    }

    fn timers(&mut self, now: Instant) {
        while let Some(Reverse((at, index))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(Some(occupied)) = self.seats.get_mut(index) else { continue };
            if occupied.timer != Some(at) {
                continue;
            }
            occupied.timer = None;
            // Packets may have moved the deadline back since.
            let due = occupied.seat.deadline();
            if due <= now {
                self.vitals.late(now.saturating_duration_since(due));
                if let Err(over) = occupied.seat.handle_timeout(now, &mut self.vitals) {
                    self.empty(index, now, Err(over));
                    continue;
                }
            }
            self.set_timer(index);
        }
    }

    /// Lets in who waits at the door, and makes everybody look at the phase. `false`: the pool is closed and all have left.
    fn answer_bell(&mut self, now: Instant) -> bool {
        let closed = loop {
            match self.door.try_recv() {
                Ok(seat) => self.seat(seat, now),
                Err(mpsc::error::TryRecvError::Empty) => break false,
                Err(mpsc::error::TryRecvError::Disconnected) => break true,
            }
        };
        for index in 0..self.seats.len() {
            let Some(Some(occupied)) = self.seats.get_mut(index) else { continue };
            if occupied.seat.look_at_phase(now) || closed {
                self.empty(index, now, Ok(()));
            }
        }
        !closed
    }

    fn seat(&mut self, mut seat: Box<dyn Seat>, now: Instant) {
        let index = self.free.pop().unwrap_or(self.seats.len());
        let registered =
            self.poll.registry().register(seat.socket(), Token(index), Interest::READABLE);
        let begun = match registered {
            Ok(()) => seat.begin(now, &mut self.vitals),
            Err(error) => Err(Over(format!("registering a socket: {error}"))),
        };
        let occupied = Some(Occupied { seat, timer: None });
        match self.seats.get_mut(index) {
            Some(place) => *place = occupied,
            None => self.seats.push(occupied),
        }
        self.occupied += 1;
        match begun {
            Ok(()) => self.set_timer(index),
            Err(over) => self.empty(index, now, Err(over)),
        }
    }

    fn empty(&mut self, index: usize, now: Instant, result: Result<(), Over>) {
        let Some(mut occupied) = self.seats.get_mut(index).and_then(Option::take) else { return };
        let _ = self.poll.registry().deregister(occupied.seat.socket());
        self.free.push(index);
        self.occupied -= 1;
        occupied.seat.leave(now, result, &mut self.vitals);
    }

    /// Sets a timer if there is none early enough.
    fn set_timer(&mut self, index: usize) {
        let Some(Some(occupied)) = self.seats.get_mut(index) else { return };
        let due = occupied.seat.deadline();
        if occupied.timer.is_none_or(|timer| due < timer) {
            occupied.timer = Some(due);
            self.timers.push(Reverse((due, index)));
        }
    }
}
