use super::*;

fn report() -> Report {
    Report {
        end: End::Failed("cannot enter /x".into()),
        stdout: Kept { head: b"head\xff".into(), tail: b"tail".into(), dropped: 1 << 40 },
        stderr: Kept { head: vec![0; 300], ..Kept::default() },
        duration: Duration::from_nanos(1_234_567_890_123),
    }
}

fn every() -> Vec<Frame> {
    let piece = |bytes: &[u8], dropped| Piece { bytes: bytes.to_vec(), dropped };
    vec![
        Frame::Order(Box::new(Order { job: job(), plan: Plan::default() })),
        Frame::Cancel,
        Frame::Interrupt,
        Frame::Taken,
        Frame::Started(u32::MAX),
        Frame::Head(Stream::Stdout, b"a\0\xff".into()),
        Frame::Head(Stream::Stderr, Vec::new()),
        Frame::Chunk(piece(b"one", 0), piece(b"two", u64::MAX)),
        Frame::Ended(report()),
    ]
}

fn job() -> Job {
    Job {
        argv: vec!["/bin/sh".into(), "-c".into(), "echo \"\u{1}ä\"".into()],
        env: [("A".into(), "b=c".into())].into(),
        cwd: "/".into(),
        run_as: Some("nobody".into()),
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(2),
        output_limit: 65536,
        chunk_every: Some(Duration::from_millis(250)),
        limits: super::super::job::Limits { memory: Some(1 << 20), pids: None },
        spool: "/tmp/spool".into(),
    }
}

#[test]
fn what_is_said_is_understood_however_it_is_cut() {
    let bytes: Vec<u8> = every().iter().flat_map(Frame::encode).collect();
    for step in [1, 2, 7, bytes.len()] {
        let (mut decoder, mut seen) = (Decoder::new(MAX_ORDER), Vec::new());
        for piece in bytes.chunks(step) {
            decoder.push(piece);
            while let Some(frame) = decoder.next().unwrap() {
                seen.push(frame);
            }
        }
        assert_eq!(seen, every(), "in steps of {step}");
    }
}

#[test]
fn a_frame_cut_short_is_waited_for_or_malformed_but_never_another_one() {
    for frame in every() {
        let bytes = frame.encode();
        for length in 0..bytes.len() {
            let mut decoder = Decoder::new(MAX_ORDER);
            decoder.push(&bytes[..length]);
            assert_eq!(decoder.next(), Ok(None), "{length} bytes of {frame:?}");
            // The last piece of a stream has no length of its own.
            let open = matches!(frame, Frame::Head(..) | Frame::Chunk(..));
            assert!(open || length < 4 || decode(&bytes[4..length]).is_err(), "{length} bytes of {frame:?}");
        }
    }
}

#[test]
fn what_cannot_be_right_says_why() {
    let first = |bytes: &[u8]| {
        let mut decoder = Decoder::new(100);
        decoder.push(bytes);
        decoder.next()
    };
    assert_eq!(first(&[101, 0, 0, 0]), Err(Broken::Length(101)));
    assert_eq!(first(&[1, 0, 0, 0, VERSION]), Err(Broken::Length(1)));
    assert_eq!(first(&[2, 0, 0, 0, 9, 2]), Err(Broken::Version(9)));
    assert_eq!(first(&[2, 0, 0, 0, VERSION, 99]), Err(Broken::Kind(99)));
    assert_eq!(first(&[3, 0, 0, 0, VERSION, 2, 0]), Err(Broken::Body));
}
