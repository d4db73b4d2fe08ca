//! Being let in, by a key (RFC 4252, section 7).

use super::{
    Error, How,
    handshake::Transport,
    wire::{Reader, Write as _, msg},
};

const SERVICE: &str = "ssh-connection";

/// Shows the key; the server has let us in when this is over.
pub(super) async fn enter(transport: &mut Transport, how: &How<'_>) -> Result<(), Error> {
    let mut request = vec![msg::SERVICE_REQUEST];
    request.put_string("ssh-userauth");
    transport.send(&request).await?;
    let mut algorithms = None;
    loop {
        let message = transport.of_service().await?;
        match message[0] {
            msg::EXT_INFO => algorithms = signature_algorithms(&message).or(algorithms),
            msg::SERVICE_ACCEPT => break,
            other => return Err(Error::Unexpected(other)),
        }
    }
    transport.send(&signed(transport, how, algorithms.as_deref())?).await?;
    loop {
        let message = transport.of_service().await?;
        match message[0] {
            msg::USERAUTH_SUCCESS => return Ok(()),
            msg::USERAUTH_FAILURE => return Err(Error::KeyRefused),
            // What an administrator wants users to read: there is none here.
            msg::USERAUTH_BANNER | msg::EXT_INFO => {}
            other => return Err(Error::Unexpected(other)),
        }
    }
}

fn signed(transport: &Transport, how: &How<'_>, algorithms: Option<&str>) -> Result<Vec<u8>, Error> {
    let algorithm = how.key.algorithm(algorithms);
    let mut request = vec![msg::USERAUTH_REQUEST];
    request.put_string(how.user);
    request.put_string(SERVICE);
    request.put_string("publickey");
    request.put_bool(true);
    request.put_string(algorithm);
    request.put_string(how.key.blob());
    let mut data = Vec::new();
    data.put_string(transport.session.id.as_ref().map_or(&[][..], |id| id.as_ref()));
    data.extend_from_slice(&request);
    let signature = how.key.sign(algorithm, &data).map_err(|error| Error::Key(std::sync::Arc::new(error)))?;
    request.put_string(signature);
    Ok(request)
}

/// The algorithms for signatures that the server takes (RFC 8308, section 3.1).
fn signature_algorithms(message: &[u8]) -> Option<String> {
    let mut reader = Reader::new(&message[1..]);
    for _ in 0..reader.u32().ok()? {
        let (name, value) = (reader.string().ok()?, reader.string().ok()?);
        if name == b"server-sig-algs" {
            return str::from_utf8(value).ok().map(str::to_owned);
        }
    }
    None
}
