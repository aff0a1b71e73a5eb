//! A request line kept until the next hop is known, because its form depends on that hop (RFC 9112 §3.2).

use super::target::OriginForm;

/// Method and target of a request. The buffer is reused for the next request.
#[derive(Debug, Default)]
pub struct RequestLine {
    /// The method and, directly behind it, the target for an origin server.
    text: String,
    method: usize,
}

impl RequestLine {
    /// Keeps the line of a request.
    pub fn keep(&mut self, method: &str, target: OriginForm<'_>) {
        self.text.clear();
        self.text.push_str(method);
        self.method = self.text.len();
        target.push_to(&mut self.text);
    }

    /// The method, and the target in origin-form (RFC 9112 §3.2.1).
    #[inline]
    pub fn parts(&self) -> (&str, OriginForm<'_>) {
        let (method, target) = self.text.split_at_checked(self.method).unwrap_or_default();
        (method, target.into())
    }

    /// Frees memory that an ordinary request does not need.
    pub fn trim(&mut self, most: usize) {
        if self.text.capacity() > most {
            *self = Self::default();
        }
    }
}

/// Appends a request line, which is always HTTP/1.1.
#[inline]
pub fn write_request_line(out: &mut Vec<u8>, method: &str, target: OriginForm<'_>) {
    out.reserve(method.len() + target.len() + 11);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    target.write(out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}
