//! Ends an exchange whose wait was too long or whose peer has gone, and says whose fault that was.

use crate::error::{Error, Kind, Phase, Side};

use super::connect::{dial_expired, lookup_expired};
use super::exchange::{ClientSide, Exchange, Stage, client_gone, tunnel_reset};

impl Exchange {
    /// Which wait was too long.
    pub(super) fn expired(&self, client: &ClientSide<'_>) -> Error {
        match &self.stage {
            // Waiting there has no end but its time.
            Stage::Held | Stage::Lookup(_) => lookup_expired(),
            Stage::Dial(dial) => dial_expired(dial),
            Stage::Tunnel if self.expects_hello() => Error::new(
                Side::Client,
                Phase::Transfer,
                Kind::HttpRequestTimeout,
                "the ClientHello did not come in time",
            ),
            Stage::Tunnel => Error::new(
                Side::Proxy,
                Phase::Transfer,
                Kind::ConnectionTimeout,
                "the tunnel was quiet for too long",
            ),
            _ if self.upstream.as_ref().is_some_and(|u| !u.end.stream.is_writable()) => Error::new(
                Side::Upstream,
                Phase::Send,
                Kind::ConnectionWriteTimeout,
                "the upstream took no more of the request for too long",
            ),
            _ if !client.end.stream.is_writable() => Error::new(
                Side::Client,
                Phase::Transfer,
                Kind::ConnectionWriteTimeout,
                "the client took no more of the response for too long",
            ),
            _ if !self.request.is_taken() && !self.upload_broken => Error::new(
                Side::Client,
                Phase::Send,
                Kind::HttpRequestTimeout,
                "the client sent no more of the request's content for too long",
            ),
            _ => Error::new(
                Side::Upstream,
                if self.begun { Phase::Transfer } else { Phase::Response },
                Kind::HttpResponseTimeout,
                "the upstream did not respond in time",
            ),
        }
    }

    /// Notices a reset also where nothing is received from the peer now.
    pub(super) fn notice_breaks(&mut self, client: &mut ClientSide<'_>) -> Result<(), Error> {
        if let Some(e) = client.end.stream.broken() {
            return Err(if self.is_tunnel() {
                tunnel_reset(Side::Client, e)
            } else {
                client_gone(e)
            });
        }
        if self.is_tunnel()
            && let Some(upstream) = &mut self.upstream
            && let Some(e) = upstream.end.stream.broken()
        {
            if self.response.is_over() {
                return Err(tunnel_reset(Side::Upstream, e));
            }
            self.upload_broken = true;
            self.request.drop_pipe();
        }
        Ok(())
    }
}
