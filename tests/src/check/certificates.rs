//! Authorities and certificates, made for a test.

use anyhow::Result;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

const DAY: i64 = 24 * 3600;

/// An authority that signs certificates.
pub struct Authority {
    name: String,
    key: PKey<Private>,
    certificate: X509,
}

/// A server's certificate and its key, in PEM (PKCS #8).
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

fn new_key() -> Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}

fn now() -> Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_secs())?)
}

/// A certificate without its signature, valid from 30 days ago until so many days from now.
fn unsigned(
    subject: &str,
    issuer: &str,
    key: &PKey<Private>,
    serial: u32,
    days: i64,
) -> Result<X509Builder> {
    let name = |text: &str| -> Result<_> {
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_text("CN", text)?;
        Ok(name.build())
    };
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = BigNum::from_u32(serial)?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    let (subject, issuer) = (name(subject)?, name(issuer)?);
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(&issuer)?;
    builder.set_pubkey(key)?;
    let (from, to) = (
        Asn1Time::from_unix(now()? - 30 * DAY)?,
        Asn1Time::from_unix(now()? + days * DAY)?,
    );
    builder.set_not_before(&from)?;
    builder.set_not_after(&to)?;
    Ok(builder)
}

impl Authority {
    pub fn new(name: &str) -> Result<Self> {
        let key = new_key()?;
        let mut builder = unsigned(name, name, &key, 1, 30)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self {
            name: name.to_owned(),
            key,
            certificate: builder.build(),
        })
    }

    pub fn pem(&self) -> Result<Vec<u8>> {
        Ok(self.certificate.to_pem()?)
    }

    /// A certificate for a host name, or for 127.0.0.1, that is valid for so many days more.
    pub fn sign(&self, host: Option<&str>, days: i64) -> Result<Identity> {
        let key = new_key()?;
        let mut builder = unsigned("server", &self.name, &key, 2, days)?;
        let mut names = SubjectAlternativeName::new();
        match host {
            Some(host) => names.dns(host),
            None => names.ip("127.0.0.1"),
        };
        let names = names.build(&builder.x509v3_context(Some(&self.certificate), None))?;
        builder.append_extension(names)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(Identity {
            certificate: builder.build().to_pem()?,
            key: key.private_key_to_pem_pkcs8()?,
        })
    }
}
