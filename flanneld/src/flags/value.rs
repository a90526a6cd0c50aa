//! From text to domain values.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use flannel_core::SubnetKey;
use ipnet::IpNet;
use regex::Regex;

use super::command_line::{Given, Value};
use super::table::{self, STORE_EXAMPLE};
use super::{EtcdFlags, Flags, Refusal, RuleFlags, Secret, StoreFlags, UplinkFlags};
use crate::logging::{LogFormat, LogOptions};

/// Bounds of `--subnet-lease-renew-margin` in minutes: less than the day that a lease lasts.
const RENEW_MARGIN_MINUTES: std::ops::RangeInclusive<i64> = 1..=1439;

/// Bounds of `--iptables-resync` in seconds: a day at most.
const RESYNC_SECONDS: std::ops::RangeInclusive<i64> = 1..=86_400;

/// `RTPROT_UNSPEC` to `RTPROT_STATIC` in `linux/rtnetlink.h`: routes of the kernel and of administrators.
const RESERVED_ROUTE_PROTOCOLS: std::ops::RangeInclusive<i64> = 0..=4;

/// Types every value; the first that cannot be typed is the refusal.
pub(super) fn flags(given: &Given) -> Result<Flags, Refusal> {
    Ok(Flags {
        store: store(given)?,
        state_dir: state_dir(given)?,
        subnet_file: path(&last(given, table::SUBNET_FILE)?)?,
        pinned_subnet: optional(given, table::SUBNET, pinned_subnet)?,
        route_protocol: route_protocol(&last(given, table::ROUTE_PROTOCOL)?)?,
        renew_margin: renew_margin(&last(given, table::SUBNET_LEASE_RENEW_MARGIN)?)?,
        rules: RuleFlags {
            masquerade: switch(given, table::IP_MASQ)?,
            random_fully: !switch(given, table::IP_MASQ_FULLY_RANDOM_DISABLE)?,
            forward: switch(given, table::IPTABLES_FORWARD_RULES)?,
            resync: resync(&last(given, table::IPTABLES_RESYNC)?)?,
        },
        blackhole: switch(given, table::IP_BLACKHOLE_ROUTE)?,
        uplink: UplinkFlags {
            iface: given
                .values(table::IFACE)
                .map(|value| iface(&value))
                .collect::<Result<_, _>>()?,
            iface_regex: given
                .values(table::IFACE_REGEX)
                .map(|value| regex(&value))
                .collect::<Result<_, _>>()?,
            can_reach: optional(given, table::IFACE_CAN_REACH, |value| {
                address(value.text()).ok_or_else(|| value.misuse("not an IP address"))
            })?,
            public_ip: optional(given, table::PUBLIC_IP, |value| match address(value.text()) {
                Some(IpAddr::V4(ip)) => Ok(ip),
                Some(IpAddr::V6(_)) => Err(public_address(
                    "IP",
                    value,
                    "it is IPv6, give it as --public-ipv6",
                )),
                None => Err(public_address("IP", value, "give an IPv4 address")),
            })?,
            public_ipv6: optional(given, table::PUBLIC_IPV6, |value| match address(value.text()) {
                Some(IpAddr::V6(ip)) => Ok(ip),
                Some(IpAddr::V4(_)) => Err(public_address(
                    "IPv6",
                    value,
                    "it is IPv4, give it as --public-ip",
                )),
                None => Err(public_address("IPv6", value, "give an IPv6 address")),
            })?,
        },
        health: health(given)?,
    })
}

/// `--state-dir`.
pub(super) fn state_dir(given: &Given) -> Result<PathBuf, Refusal> {
    path(&last(given, table::STATE_DIR)?)
}

/// `--dry-run`.
pub(super) fn dry_run(given: &Given) -> Result<bool, Refusal> {
    switch(given, table::DRY_RUN)
}

/// `-v` and `--log-format`.
pub(super) fn log(given: &Given) -> Result<LogOptions, Refusal> {
    Ok(LogOptions {
        verbosity: verbosity(&last(given, table::VERBOSITY)?)?,
        format: log_format(&last(given, table::LOG_FORMAT)?)?,
    })
}

/// As Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// As Go's `strconv.ParseInt` with base 0: `0x`, `0o`, `0b` or a leading `0` choose the base, and `_` may stand
/// between digits and after the base.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        // A `_` at the front would follow neither digit nor base.
        [b'_', ..] => return None,
        _ => (10, lower.as_str()),
    };
    let digits = digits.strip_prefix('_').unwrap_or(digits);
    if digits.split('_').any(str::is_empty)
        || !digits
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    {
        return None;
    }
    // i128 holds the magnitude of i64::MIN.
    let magnitude = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// The flag's last value or its default. Only a name that is missing in the table fails.
fn last<'a>(given: &'a Given, name: &str) -> Result<Value<'a>, Refusal> {
    let spec = table::find(name).ok_or_else(|| Refusal::Misuse(format!("unknown flag --{name}")))?;
    Ok(given.value(spec))
}

/// None if the text is empty, as a template leaves it that has nothing to say.
fn optional<T>(
    given: &Given,
    name: &str,
    parse: impl FnOnce(&Value<'_>) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    let value = last(given, name)?;
    if value.text().is_empty() {
        Ok(None)
    } else {
        parse(&value).map(Some)
    }
}

/// Whether a boolean flag is on. Its text was checked when it was read.
fn switch(given: &Given, name: &str) -> Result<bool, Refusal> {
    Ok(boolean(last(given, name)?.text()) == Some(true))
}

fn store(given: &Given) -> Result<StoreFlags, Refusal> {
    let Some(path) = optional(given, table::STORE, store_path)? else {
        return etcd(given);
    };
    let of_etcd = table::TABLE.iter().filter(|spec| spec.name.starts_with("etcd-"));
    match of_etcd
        .flat_map(|spec| given.values(spec.name))
        .find(|value| !value.text().is_empty())
    {
        Some(other) => Err(Refusal::Unacceptable(format!(
            "both {} and {} are given, and a network has one store: leave one of them out",
            last(given, table::STORE)?.written_as(),
            other.written_as()
        ))),
        None => Ok(StoreFlags::File(path)),
    }
}

fn etcd(given: &Given) -> Result<StoreFlags, Refusal> {
    if !cfg!(feature = "etcd") {
        return Err(Refusal::Unacceptable(format!(
            "no --{} given, and this build is one without flannel's default, etcd: give --{0}={STORE_EXAMPLE}",
            table::STORE
        )));
    }
    let text = |name| optional(given, name, |value| Ok(value.text().to_owned()));
    let file = |name| optional(given, name, path);
    let import = last(given, table::ETCD_V2_IMPORT)?;
    // Empty stands for the default, as everywhere.
    let or_default = |name| -> Result<String, Refusal> {
        let spec = last(given, name)?;
        Ok(if spec.text().is_empty() {
            spec.default()
        } else {
            spec.text()
        }
        .to_owned())
    };
    Ok(StoreFlags::Etcd(EtcdFlags {
        endpoints: or_default(table::ETCD_ENDPOINTS)?,
        prefix: or_default(table::ETCD_PREFIX)?,
        ca_file: file(table::ETCD_CAFILE)?,
        cert_file: file(table::ETCD_CERTFILE)?,
        key_file: file(table::ETCD_KEYFILE)?,
        username: text(table::ETCD_USERNAME)?,
        password: text(table::ETCD_PASSWORD)?.map(Secret),
        v2_import: match import.text() {
            "auto" | "" => true,
            "off" => false,
            _ => return Err(import.misuse("give auto or off")),
        },
    }))
}

fn health(given: &Given) -> Result<Option<SocketAddr>, Refusal> {
    let port = last(given, table::HEALTHZ_PORT)?;
    let number = integer(port.text()).unwrap_or_default();
    // As flannel: nothing listens at 0 and below.
    if number <= 0 {
        return Ok(None);
    }
    let number =
        u16::try_from(number).map_err(|_| port.misuse("give a port from 1 to 65535, or 0 for none"))?;
    let ip = last(given, table::HEALTHZ_IP)?;
    let text = if ip.text().is_empty() {
        ip.default()
    } else {
        ip.text()
    };
    let ip = text
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| ip.misuse("not an IP address; give one of this host's, or 0.0.0.0 or :: for all"))?;
    Ok(Some(SocketAddr::new(ip, number)))
}

fn store_path(value: &Value<'_>) -> Result<PathBuf, Refusal> {
    let example = format!("give --store={STORE_EXAMPLE}");
    let Some((scheme, rest)) = value.text().split_once("://") else {
        return Err(value.misuse(format!("not a URL with a scheme; {example}")));
    };
    if scheme != "file" {
        return Err(Refusal::Unacceptable(format!(
            "no store for {scheme:?} of {} is there, only file: {example}, or leave it out for etcd and its --etcd-… flags",
            value.written_as()
        )));
    }
    if !rest.starts_with('/') {
        return Err(value.misuse(format!(
            "a file store has no host, the path begins with a third slash; {example}"
        )));
    }
    if rest.contains(['%', '?', '#']) {
        return Err(value.misuse("%, ? and # are not taken; write the plain path"));
    }
    let components: PathBuf = Path::new(rest).components().collect();
    if components
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return Err(value.misuse("write the path without .."));
    }
    if components.file_name().is_none() {
        return Err(value.misuse(format!("it names no directory of its own; {example}")));
    }
    Ok(components)
}

fn path(value: &Value<'_>) -> Result<PathBuf, Refusal> {
    let path = Path::new(OsStr::new(value.text()));
    if path.file_name().is_none() {
        return Err(
            value.misuse("not a path that names a file or directory; leave the flag out for its default")
        );
    }
    Ok(path.to_owned())
}

fn pinned_subnet(value: &Value<'_>) -> Result<SubnetKey, Refusal> {
    let subnet = |text: &str| -> Result<IpNet, Refusal> {
        let net: IpNet = text.trim().parse().map_err(|_| {
            value.misuse("not a CIDR; write e.g. 10.5.63.0/24, or 10.5.63.0/24,fd00:5:0:1b::/64")
        })?;
        if net.trunc() == net {
            Ok(net)
        } else {
            Err(value.misuse(format!("{net} has host bits set; write {}", net.trunc())))
        }
    };
    let nets = value
        .text()
        .split(',')
        .map(subnet)
        .collect::<Result<Vec<_>, _>>()?;
    let subnet = match nets[..] {
        [IpNet::V4(v4)] => SubnetKey::new(Some(v4), None),
        [IpNet::V6(v6)] => SubnetKey::new(None, Some(v6)),
        [IpNet::V4(v4), IpNet::V6(v6)] | [IpNet::V6(v6), IpNet::V4(v4)] => SubnetKey::new(Some(v4), Some(v6)),
        _ => None,
    };
    subnet.ok_or_else(|| value.misuse("give one IPv4 subnet, one IPv6 subnet, or one of each"))
}

fn route_protocol(value: &Value<'_>) -> Result<u8, Refusal> {
    let number = integer(value.text()).unwrap_or(-1);
    let protocol = u8::try_from(number).map_err(|_| value.misuse("not a protocol number, give 5 to 255"))?;
    if RESERVED_ROUTE_PROTOCOLS.contains(&number) {
        return Err(Refusal::Unacceptable(format!(
            "{}={protocol} is reserved: 0 to 4 mark routes of the kernel and of administrators (unspec, redirect, \
             kernel, boot, static), which must stay distinct from ours; give 5 to 255",
            value.written_as()
        )));
    }
    Ok(protocol)
}

fn renew_margin(value: &Value<'_>) -> Result<Duration, Refusal> {
    let minutes = integer(value.text()).filter(|minutes| RENEW_MARGIN_MINUTES.contains(minutes));
    match minutes.and_then(|minutes| u64::try_from(minutes).ok()) {
        Some(minutes) => Ok(Duration::from_secs(minutes * 60)),
        None => Err(Refusal::Unacceptable(format!(
            "Invalid subnet-lease-renew-margin option, out of acceptable range: {}={}; give {} to {} minutes",
            value.written_as(),
            value.text(),
            RENEW_MARGIN_MINUTES.start(),
            RENEW_MARGIN_MINUTES.end()
        ))),
    }
}

fn resync(value: &Value<'_>) -> Result<Duration, Refusal> {
    let seconds = integer(value.text()).filter(|seconds| RESYNC_SECONDS.contains(seconds));
    match seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(Refusal::Unacceptable(format!(
            "{}={} is out of range; give {} to {} seconds",
            value.written_as(),
            value.text(),
            RESYNC_SECONDS.start(),
            RESYNC_SECONDS.end()
        ))),
    }
}

fn iface(value: &Value<'_>) -> Result<String, Refusal> {
    if value.text().is_empty() {
        return Err(value.misuse("give an interface name or address, or leave the flag out"));
    }
    Ok(value.text().to_owned())
}

fn regex(value: &Value<'_>) -> Result<Regex, Refusal> {
    if value.text().is_empty() {
        return Err(value.misuse("it would match every interface; give an expression or leave the flag out"));
    }
    Regex::new(value.text()).map_err(|error| {
        // The error draws the expression over several lines and points into it; its last line is the reason.
        let drawn = error.to_string();
        let reason = drawn.lines().last().unwrap_or_default();
        value.misuse(format!(
            "not a regular expression: {}",
            reason.trim_start_matches("error: ")
        ))
    })
}

/// IPv4 in IPv6 notation is IPv4, as in Go.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn public_address(kind: &str, value: &Value<'_>, remedy: &str) -> Refusal {
    let written_as = value.written_as();
    Refusal::Unacceptable(format!(
        "invalid public {kind} address: {} ({written_as}): {remedy}",
        value.text().escape_debug()
    ))
}

fn verbosity(value: &Value<'_>) -> Result<i32, Refusal> {
    value
        .text()
        .parse()
        .map_err(|_| value.misuse("not a decimal integer"))
}

fn log_format(value: &Value<'_>) -> Result<LogFormat, Refusal> {
    match value.text() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(value.misuse("give text or json")),
    }
}
