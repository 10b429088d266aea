//! Sockets of a host, from the lines that the probe took of `/proc/net/{tcp,tcp6,udp,udp6}`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket that listens or is connected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostSocket {
    /// TCP; UDP otherwise.
    pub tcp: bool,
    /// The host's address; unspecified where it listens on all.
    pub local: IpAddr,
    /// The host's port.
    pub port: u16,
    /// The other end; `None` where it listens.
    pub peer: Option<(IpAddr, u16)>,
}

impl HostSocket {
    /// Reads the section: `>FILE`, then `LOCAL REMOTE STATE` as the kernel prints them.
    pub fn parse(text: &str) -> Vec<HostSocket> {
        let mut tcp = true;
        let mut sockets = Vec::new();
        for line in text.lines() {
            if let Some(file) = line.strip_prefix('>') {
                tcp = file.contains("/tcp");
                continue;
            }
            let mut words = line.split(' ');
            let (Some(local), Some(remote), Some(state)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some((local, port)), Some(remote)) = (end(local), end(remote)) else { continue };
            let peer = match state {
                "01" => Some(remote),
                // A TCP socket in LISTEN, a UDP socket that is not connected.
                "0A" | "07" => None,
                _ => continue,
            };
            sockets.push(HostSocket { tcp, local, port, peer });
        }
        sockets.sort();
        sockets.dedup();
        sockets
    }
}

/// `0100007F:1F90`: each 32-bit word of the address in the byte order of the machine, taken to be that of
/// x86 and ARM; the port as people write it.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .map(|n| u32::from_str_radix(address.get(8 * n..8 * n + 8)?, 16).ok().map(u32::to_le_bytes))
        .collect::<Option<_>>()?;
    let address = match words[..] {
        [v4] => IpAddr::V4(Ipv4Addr::from(v4)),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip([a, b, c, d].iter().flatten()) {
                *to = *from;
            }
            // A socket of both families that speaks IPv4.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_prints_them() {
        let text = ">/proc/net/tcp\n0100007F:1F90 00000000:0000 0A\n0B00630A:0016 0100630A:D431 01\n0B00630A:0016 0100630A:D432 06\n\
                    >/proc/net/udp6\n00000000000000000000000000000000:151D 00000000000000000000000000000000:0000 07\n\
                    0000000000000000FFFF00000B00630A:0CBC 0000000000000000FFFF00003200630A:0CBC 01\nrubbish\n";
        let socket = |tcp, local: &str, port, peer: Option<(&str, u16)>| HostSocket {
            tcp,
            local: local.parse().unwrap(),
            port,
            peer: peer.map(|(address, port)| (address.parse().unwrap(), port)),
        };
        let mut expected = vec![
            socket(true, "127.0.0.1", 8080, None),
            socket(true, "10.99.0.11", 22, Some(("10.99.0.1", 54321))),
            socket(false, "::", 5405, None),
            socket(false, "10.99.0.11", 3260, Some(("10.99.0.50", 3260))),
        ];
        expected.sort();
        assert_eq!(HostSocket::parse(text), expected);
    }
}
