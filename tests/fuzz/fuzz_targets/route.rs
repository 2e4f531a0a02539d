//! Any request line is read without a panic, and what is read is printed so that it is read the same.
#![no_main]

use http::Method;
use hubgate::hub::HubRoute;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (method, url) = input;
    let method = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS]
        [usize::from(method) % 6]
        .clone();
    let read = |method: &Method, url: &str| {
        let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
        HubRoute::parse(method, path, query)
    };
    if let Ok(route) = read(&method, url) {
        assert_eq!(read(&route.method(), &route.to_string()), Ok(route));
    }
});
