use super::*;

fn session(id: Option<Digest>) -> Session {
    Session {
        versions: ("SSH-2.0-a".to_owned(), "SSH-2.0-b".to_owned()),
        id,
        host_key: Vec::new(),
        strict: true,
        host_keys: vec!["ssh-ed25519", "ecdsa-sha2-nistp256"],
    }
}

/// What a server proposes.
fn proposal(methods: &str, host_keys: &str, follows: bool) -> Vec<u8> {
    let mut payload = vec![msg::KEXINIT; 17];
    let cipher = "aes128-gcm@openssh.com";
    for list in [methods, host_keys, cipher, cipher, "", "", "none", "none", "", ""] {
        payload.put_string(list);
    }
    payload.put_bool(follows);
    payload.put_u32(0);
    payload
}

/// RFC 4253, section 7.1: the guess is right where both sides prefer the same method and the same kind of host key.
#[test]
fn a_wrong_guess_is_passed_over() {
    let (best, good) = ("curve25519-sha256", "ecdh-sha2-nistp256");
    for (methods, host_keys, wrong) in [
        (format!("{best},{good}"), "ssh-ed25519,ecdsa-sha2-nistp256", false),
        (format!("{best},{good}"), "ssh-ed25519", false),
        // It prefers what both know, and we prefer something else.
        (good.to_owned(), "ssh-ed25519", true),
        (format!("{good},{best}"), "ssh-ed25519", true),
        (best.to_owned(), "ecdsa-sha2-nistp256", true),
        (best.to_owned(), "ecdsa-sha2-nistp256,ssh-ed25519", true),
        (format!("mlkem768x25519-sha256,{best}"), "ssh-ed25519", true),
        (best.to_owned(), "ssh-rsa,ssh-ed25519", true),
    ] {
        for follows in [true, false] {
            let theirs = proposal(&methods, host_keys, follows);
            let (exchange, _) = Exchange::begin(&mut session(None), &theirs).unwrap();
            assert_eq!(exchange.skip, wrong && follows, "{methods} {host_keys} {follows}");
        }
    }
}

/// The markers are no methods, and are said once.
#[test]
fn only_the_first_proposal_has_markers() {
    let digest = digest::digest(&digest::SHA256, b"");
    for (id, said) in [(None, true), (Some(digest), false)] {
        let ours = propose(&session(id)).unwrap();
        let proposal = Proposal::read(&ours).unwrap();
        assert!(MARKERS.iter().all(|marker| proposal.has(KEX, marker) == said), "{said}");
        assert!(!proposal.follows);
    }
}

#[test]
fn a_proposal_that_is_cut_short_is_malformed() {
    let whole = proposal("curve25519-sha256", "ssh-ed25519", false);
    for end in 0..whole.len() {
        let begun = Exchange::begin(&mut session(None), &whole[..end]);
        assert!(matches!(begun, Err(Error::Malformed(_))), "{end} bytes");
    }
}
