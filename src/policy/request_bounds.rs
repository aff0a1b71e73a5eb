//! Bounds that hold for every destination: ports of CONNECT, methods and schemes.
//!
//! Bounds come before all rules on destinations, even before those that allow. Under a policy where every
//! request needs a rule that allows it, a bound behind the rules would have no effect.

use std::ops::RangeInclusive;

use super::rule_origin::RuleId;
use super::rules::{Request, Way};

/// Bounds on requests. `None` sets no bound.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// The ports that CONNECT may use.
    pub connect_ports: Option<(RuleId, Vec<RangeInclusive<u16>>)>,
    /// The methods allowed; case counts (RFC 9110 §9.1).
    pub methods: Option<(RuleId, Vec<Box<str>>)>,
    /// The schemes allowed.
    pub schemes: Option<(RuleId, Vec<Way>)>,
}

impl Bounds {
    /// Whether there is no bound.
    pub fn are_none(&self) -> bool {
        let Self { connect_ports, methods, schemes } = self;
        connect_ports.is_none() && methods.is_none() && schemes.is_none()
    }

    /// Lists the bounds that a request is within, for a person to read.
    pub(super) fn describe(&self, request: &Request<'_>) -> String {
        let method = self.methods.as_ref().map(|_| format!("method {}", request.method));
        let scheme = self.schemes.as_ref().map(|_| format!("scheme {}", request.way.word()));
        let ports = self.connect_ports.as_ref().filter(|_| request.way == Way::Connect);
        let port = ports.map(|_| format!("CONNECT to port {}", request.port));
        let all: Vec<String> = [method, scheme, port].into_iter().flatten().collect();
        match all.is_empty() {
            true => "no bound applies".to_owned(),
            false => format!("allowed: {}", all.join(", ")),
        }
    }

    /// The bound that a request breaks, if any, and a sentence about it.
    pub fn refuse(&self, request: &Request<'_>) -> Option<(RuleId, &'static str)> {
        if let Some((rule, methods)) = &self.methods
            && !methods.iter().any(|method| **method == *request.method)
        {
            return Some((*rule, "requests of this method are not allowed"));
        }
        // An operator who does not allow CONNECT wants no tunnels, unless `ws` is named.
        let ws_is_named = self.schemes.as_ref().is_some_and(|(_, ways)| ways.contains(&Way::Ws));
        if let Some((rule, methods)) = &self.methods
            && request.way == Way::Ws
            && !ws_is_named
            && !methods.iter().any(|method| **method == *"CONNECT")
        {
            return Some((*rule, "without CONNECT no request may become a tunnel"));
        }
        if let Some((rule, schemes)) = &self.schemes
            && !schemes.contains(&request.way)
        {
            return Some((*rule, "requests of this scheme are not allowed"));
        }
        if let Some((rule, ports)) = &self.connect_ports
            && request.way == Way::Connect
            && !ports.iter().any(|ports| ports.contains(&request.port))
        {
            return Some((*rule, "CONNECT to this port is not allowed"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &'static str, way: Way, port: u16) -> Request<'static> {
        Request {
            client: [10, 0, 0, 1].into(),
            user: None,
            method,
            way,
            host: "a.example",
            ip: None,
            port,
            target: "/",
        }
    }

    #[test]
    fn a_request_is_within_all_bounds_or_names_the_first_that_it_is_beyond() {
        let rule = |line| RuleId { source: 7, line };
        let bounds = Bounds {
            connect_ports: Some((rule(1), vec![443..=443, 8000..=8999])),
            methods: Some((rule(2), vec!["GET".into(), "CONNECT".into()])),
            schemes: Some((rule(3), vec![Way::Http, Way::Connect])),
        };
        for (method, way, port, beyond) in [
            ("GET", Way::Http, 80, None),
            // The ports apply to CONNECT alone.
            ("GET", Way::Http, 22, None),
            ("CONNECT", Way::Connect, 443, None),
            ("CONNECT", Way::Connect, 8000, None),
            ("CONNECT", Way::Connect, 8999, None),
            ("CONNECT", Way::Connect, 9000, Some(1)),
            ("CONNECT", Way::Connect, 22, Some(1)),
            ("POST", Way::Http, 80, Some(2)),
            ("get", Way::Http, 80, Some(2)),
            ("POST", Way::Ws, 80, Some(2)),
            ("GET", Way::Ws, 80, Some(3)),
        ] {
            let refused = bounds.refuse(&request(method, way, port));
            assert_eq!(refused.map(|(rule, _)| rule.line), beyond, "{method} {way:?} {port}");
            assert_eq!(Bounds::default().refuse(&request(method, way, port)), None);
        }
        assert!(Bounds::default().are_none() && !bounds.are_none());
    }

    #[test]
    fn where_connect_is_no_method_an_upgrade_is_no_way_to_a_tunnel_unless_it_is_named() {
        let rule = |line| RuleId { source: 7, line };
        for (methods, schemes, refused) in [
            (Some(&["GET"][..]), None, Some(2)),
            (Some(&["GET", "connect"]), None, Some(2)),
            (Some(&["GET", "CONNECT"]), None, None),
            (Some(&["GET"]), Some(&[Way::Http, Way::Ws][..]), None),
            (Some(&["GET"]), Some(&[Way::Http]), Some(2)),
            (None, None, None),
            (None, Some(&[Way::Http]), Some(3)),
        ] {
            let bounds = Bounds {
                connect_ports: None,
                methods: methods.map(|all| (rule(2), all.iter().map(|m| (*m).into()).collect())),
                schemes: schemes.map(|ways| (rule(3), ways.to_vec())),
            };
            let found = bounds.refuse(&request("GET", Way::Ws, 80)).map(|(rule, _)| rule.line);
            assert_eq!(found, refused, "{methods:?} {schemes:?}");
            assert_eq!(bounds.refuse(&request("GET", Way::Http, 80)), None);
        }
    }
}
