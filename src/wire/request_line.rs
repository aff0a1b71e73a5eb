//! A request line kept until it is known who gets it: what stands in it depends on the next hop (RFC 9112
//! §3.2).

use super::target::OriginForm;

/// Method and target of a request. The memory is used again for the next one.
#[derive(Debug, Default)]
pub struct RequestLine {
    /// The method and, right behind it, what an origin server gets as target.
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

    /// Gives memory back that an ordinary request does not need.
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
