//! What a geolocation service is asked when networks are heard: NetworkManager and ModemManager as python-dbusmock plays
//! them, on a bus of the test's own, and a server of the test that answers.

#![cfg(target_os = "linux")]

use serde_json::{Value, json};
use testkit::{
    bus::Bus,
    web::{Answer, Web},
};

use crate::support::{
    Home,
    command::{Ended, end},
};

const PLACE: &str = r#"{"location": {"lat": 47.3769, "lng": 8.5417}, "accuracy": 30}"#;

struct Story {
    bus: Bus,
    web: Web,
    home: Home,
}

impl Story {
    async fn begin() -> Self {
        let web = Web::start().await.unwrap();
        let home = Home::new("mqtt://127.0.0.1:1").yaml(&format!(
            "services:\n  registration: {{enabled: false}}\n  \
             location: {{enabled: true, use_google_geolocation: true, geolocation_url: '{}v1/geolocate'}}",
            web.url()
        ));
        Self { bus: Bus::start().await.unwrap(), web, home }
    }

    /// A Wi-Fi device.
    async fn device(&self, name: &str) {
        self.script(&format!(
            "mock(NM, '/org/freedesktop/NetworkManager').AddWiFiDevice('{name}', '{name}', 100)"
        ))
        .await;
    }

    /// An access point that it hears, at 5180 MHz.
    async fn point(&self, device: &str, name: &str, ssid: &str, (address, strength): (&str, u8)) {
        let add = format!(
            "mock(NM, '/org/freedesktop/NetworkManager').AddAccessPoint('/org/freedesktop/NetworkManager/Devices/{device}', \
             '{name}', '{ssid}', '{address}', dbus.UInt32(2), dbus.UInt32(5180), dbus.UInt32(5400), dbus.Byte({strength}), \
             dbus.UInt32(0))"
        );
        self.script(&add).await;
    }

    /// A modem, with Python for what `GetCellInfo` and `GetLocation` return, and its properties.
    async fn modem(&self, cells: &str, location: &str, technologies: u32) {
        self.script(&format!(
            "root, path = mock(MM, '/org/freedesktop/ModemManager1'), '/org/freedesktop/ModemManager1/Modem/0'\n\
             root.AddObject(path, MM + '.Modem', {{'AccessTechnologies': dbus.UInt32({technologies})}}, \
             [('GetCellInfo', '', 'aa{{sv}}', '''{cells}''')])\n\
             mock(MM, path).AddMethod(MM + '.Modem.Location', 'GetLocation', '', 'a{{uv}}', '''{location}''')"
        ))
        .await;
    }

    async fn script(&self, script: &str) {
        self.bus.script(script).await.unwrap();
    }

    /// `location once`.
    async fn once(&self) -> Ended {
        let mut command =
            self.home.command(&["location", "once", "--source", "google", "--json", "--timeout", "12"]);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address());
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        end(command.stderr(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap()).await
    }

    /// What the service was asked in the last of so many requests, once a place was found.
    async fn asked(&self, requests: usize) -> Value {
        self.web.answers([Answer::json(200, PLACE)]);
        let ended = self.once().await;
        assert_eq!(ended.code, 0, "{ended:#?}");
        assert!(ended.out.contains("47.3769"), "{ended:#?}");
        let all = self.web.requests();
        assert_eq!(all.len(), requests);
        serde_json::from_slice(&all.last().unwrap().body).unwrap()
    }
}

#[tokio::test]
async fn access_points_are_told_but_for_those_that_must_not() {
    let mut story = Story::begin().await;
    story.bus.network_manager().await.unwrap();
    for device in ["wlan0", "wlan1"] {
        story.device(device).await;
    }
    story.point("wlan0", "one", "home", ("00:1a:2b:00:00:01", 60)).await;
    story.point("wlan1", "two", "", ("00:1A:2B:00:00:02", 100)).await;
    story.point("wlan1", "again", "home", ("00:1a:2b:00:00:01", 40)).await;
    story.point("wlan0", "optout", "garden_nomap", ("00:1a:2b:00:00:03", 100)).await;
    story.point("wlan0", "phone", "phone", ("02:1a:2b:00:00:04", 100)).await;
    let asked = story.asked(1).await;
    assert_eq!(asked["considerIp"], false);
    let points: Vec<(&str, i64, u64)> = asked["wifiAccessPoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| {
            let signal = point["signalStrength"].as_i64().unwrap();
            (point["macAddress"].as_str().unwrap(), signal, point["channel"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(points, [("00:1a:2b:00:00:02", -40, 36), ("00:1a:2b:00:00:01", -64, 36)]);
    assert!(!asked.to_string().contains("home"), "names of networks are nobody's business: {asked}");
}

/// It is the same whether the scan is done, refused, or never: what is known already counts.
#[tokio::test]
async fn a_scan_is_waited_for_and_may_be_refused() {
    let mut story = Story::begin().await;
    story.bus.network_manager().await.unwrap();
    story.device("wlan0").await;
    story.point("wlan0", "one", "", ("00:1a:2b:00:00:01", 60)).await;
    // The second is only heard by a scan.
    let scan = "\
device = mock(NM, '/org/freedesktop/NetworkManager/Devices/wlan0')
wireless = NM + '.Device.Wireless'
device.AddProperty(wireless, 'LastScan', dbus.Int64(5))
device.AddMethod(wireless, 'RequestScan', 'a{sv}', '', '''
manager = objects['/org/freedesktop/NetworkManager']
if len(self.access_points) == 1:
    manager.AddAccessPoint(self.path, 'second', '', '00:1a:2b:00:00:02', 2, 2412, 54, 50, 0)
wireless = 'org.freedesktop.NetworkManager.Device.Wireless'
self.UpdateProperties(wireless, {'LastScan': dbus.Int64(self.props[wireless]['LastScan'] + 1)})
''')";
    story.script(scan).await;
    let asked = story.asked(1).await;
    assert_eq!(asked["wifiAccessPoints"].as_array().unwrap().len(), 2, "{asked}");
    let refuse = "\
device = mock(NM, '/org/freedesktop/NetworkManager/Devices/wlan0')
device.AddMethod(NM + '.Device.Wireless', 'RequestScan', 'a{sv}', '', '''
raise dbus.exceptions.DBusException('not now', name='org.freedesktop.NetworkManager.Device.NotAllowed')''')";
    story.script(refuse).await;
    let asked = story.asked(2).await;
    assert_eq!(asked["wifiAccessPoints"].as_array().unwrap().len(), 2, "{asked}");
}

#[tokio::test]
async fn cells_are_told_as_the_service_names_them() {
    let mut story = Story::begin().await;
    story.bus.modem_manager().await.unwrap();
    let cells = "
cell = lambda kind, serving, **more: dbus.Dictionary(dict({'cell-type': dbus.UInt32(kind), 'serving': serving,
    'operator-id': '26201'}, **{key.replace('_', '-'): value for key, value in more.items()}), signature='sv')
ret = [cell(5, False, tac='1A2B', ci='1A2D002', rsrp=-110.0),
       cell(5, True, tac='1A2B', ci='1A2D001', rsrp=-95.4, timing_advance=dbus.UInt32(7)),
       cell(2, False, lac='10', ci='20', rx_level=dbus.UInt32(30)),
       cell(9, False, ci='1'), dbus.Dictionary({}, signature='sv')]";
    story.modem(cells, "ret = {}", 1 << 14).await;
    let asked = story.asked(1).await;
    assert_eq!(asked["radioType"], "lte");
    let towers = json!([
        {"radioType": "lte", "mobileCountryCode": 262, "mobileNetworkCode": 1, "locationAreaCode": 0x1a2b,
         "cellId": 0x1a2_d001, "signalStrength": -95, "timingAdvance": 7},
        {"radioType": "lte", "mobileCountryCode": 262, "mobileNetworkCode": 1, "locationAreaCode": 0x1a2b,
         "cellId": 0x1a2_d002, "signalStrength": -110},
    ]);
    assert_eq!(asked["cellTowers"], towers);
}

/// As with ModemManager before 1.20, and modems that cannot.
#[tokio::test]
async fn a_modem_that_tells_only_its_own_cell_will_do() {
    let mut story = Story::begin().await;
    story.bus.modem_manager().await.unwrap();
    let no = "raise dbus.exceptions.DBusException('no', name='org.freedesktop.ModemManager1.Error.Core.Unsupported')";
    let location = "ret = {dbus.UInt32(1): dbus.String('262,02,0,C0FFEE,00ABCD')}";
    story.modem(no, location, 1 << 15).await;
    let asked = story.asked(1).await;
    let tower = json!([{"radioType": "nr", "mobileCountryCode": 262, "mobileNetworkCode": 2,
        "locationAreaCode": 0xabcd, "newRadioCellId": 0xc0_ffee}]);
    assert_eq!(asked["cellTowers"], tower);
}

#[tokio::test]
async fn whatever_is_not_there_is_said() {
    let mut story = Story::begin().await;
    let said = |ended: &Ended, texts: &[&str]| {
        assert_eq!(ended.code, 1, "{ended:#?}");
        texts.iter().for_each(|text| ended.assert_said(text));
    };
    let nobody = [
        "neither two access points nor a cell",
        "Wi-Fi is not heard, NetworkManager:",
        "no modem is heard, ModemManager:",
    ];
    said(&story.once().await, &nobody);
    story.bus.network_manager().await.unwrap();
    story.bus.modem_manager().await.unwrap();
    said(&story.once().await, &["NetworkManager: has no Wi-Fi device", "ModemManager: has no modem"]);
    story.device("wlan0").await;
    story.modem("ret = []", "ret = {}", 0).await;
    said(&story.once().await, &["ModemManager: its modem tells no cell"]);
    // One that does not answer holds up nothing for long.
    story
        .script(
            "mock(MM, '/org/freedesktop/ModemManager1').AddMethod('org.freedesktop.DBus.ObjectManager', \
        'GetManagedObjects', '', 'a{oa{sa{sv}}}', 'import time; time.sleep(3600)')",
        )
        .await;
    story.point("wlan0", "one", "", ("00:1a:2b:00:00:01", 60)).await;
    story.point("wlan0", "two", "", ("00:1a:2b:00:00:02", 60)).await;
    assert_eq!(story.asked(1).await["wifiAccessPoints"].as_array().unwrap().len(), 2);
    story.bus.kill().await.unwrap();
    said(&story.once().await, &["no system bus, so neither Wi-Fi nor a modem is heard"]);
    assert_eq!(story.web.requests().len(), 1, "nothing is asked that nothing is known of");
    // And it comes back.
    story.bus.listen().await.unwrap();
    story.bus.network_manager().await.unwrap();
    story.device("wlan0").await;
    story.point("wlan0", "one", "", ("00:1a:2b:00:00:01", 60)).await;
    story.point("wlan0", "two", "", ("00:1a:2b:00:00:02", 60)).await;
    assert_eq!(story.asked(2).await["wifiAccessPoints"].as_array().unwrap().len(), 2);
}

/// Types that are not those of the interface: what can be read is, and nothing breaks.
#[tokio::test]
async fn rubbish_is_passed_over() {
    let mut story = Story::begin().await;
    story.bus.network_manager().await.unwrap();
    story.bus.modem_manager().await.unwrap();
    story.device("wlan0").await;
    for (name, address) in [("one", "00:1a:2b:00:00:01"), ("two", "00:1a:2b:00:00:02"), ("odd", "nonsense")] {
        story.point("wlan0", name, "x", (address, 60)).await;
    }
    let odd = "\
point = mock(NM, '/org/freedesktop/NetworkManager/AccessPoint/one')
point.UpdateProperties(NM + '.AccessPoint', {'Ssid': 'text', 'Strength': dbus.Double('nan'), 'LastSeen': 'never', \
 'Frequency': dbus.Array(['a'], signature='s')})";
    story.script(odd).await;
    story
        .modem(
            "ret = [dbus.Dictionary({'cell-type': 'lte', 'ci': dbus.Double(1)}, signature='sv')]",
            "ret = {dbus.UInt32(1): 7}",
            99,
        )
        .await;
    let asked = story.asked(1).await;
    let points = asked["wifiAccessPoints"].as_array().unwrap();
    assert_eq!(points.len(), 2, "{asked}");
    assert!(points.iter().any(|point| point.get("signalStrength").is_none()), "{asked}");
    assert!(asked.get("cellTowers").is_none(), "{asked}");
}
