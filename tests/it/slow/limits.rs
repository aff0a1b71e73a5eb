//! Downloads that share a rate, measured for two seconds each.

use std::thread;
use std::time::{Duration, Instant};

use crate::limits::{begin, downloads, limited};

#[test]
fn two_downloads_share_a_rate_equally() {
    let origin = downloads();
    for limit in ["total:down=400kB/s", "client:down=400kB/s", "destination:down=400kB/s"] {
        let proxy = limited(&[limit]);
        let mut clients = [0, 1].map(|_| begin(proxy.addr(), origin, 4_000_000));
        let counts: Vec<_> = thread::scope(|scope| {
            let start = Instant::now() + Duration::from_millis(300);
            let counting = clients.each_mut().map(|client| {
                scope.spawn(move || {
                    let (mut bytes, mut now) = (0, start);
                    while now < start + Duration::from_secs(2) {
                        let count = client.fill().unwrap();
                        client.discard();
                        now = Instant::now();
                        bytes += if now < start { 0 } else { count };
                    }
                    bytes
                })
            });
            counting.map(|counting| counting.join().unwrap()).into_iter().collect()
        });
        let all: usize = counts.iter().sum();
        assert!((700_000..900_000).contains(&all), "{limit}: {counts:?}");
        // A busy machine lets one of them run before the other. The simulation in `policy::shape`
        // measures that they come out even.
        let fair = all * 40 / 100..=all * 60 / 100;
        assert!(counts.iter().all(|n| fair.contains(n)), "{limit}: {counts:?}");
    }
}
