//! Who arrives when.

use portcullis_firmware::MachineDescription;
use portcullis_testbed::Random;

/// The order of arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// As the description lists nodes; IOMMUs marked late come near the end.
    Listed,
    /// The other way round.
    Reverse,
    /// Shuffled by the seed.
    Random,
}

/// One thing that happens. Indices are those of [`MachineDescription::iommus`] and of the list of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// An IOMMU is brought up and registered.
    Iommu(usize),
    /// A client gets its driver.
    Client(usize),
    /// A client loses its driver and gets it again.
    Rebind(usize),
}

/// One arrival, and whom it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub arrival: Arrival,
    /// Two steps with the same number start at the same moment, where two threads are free for them.
    pub meeting: Option<usize>,
    /// Turns of an empty loop between the meeting and the arrival, so that it does not always hit the same point.
    pub delay: usize,
}

impl Step {
    fn alone(arrival: Arrival) -> Self {
        Self { arrival, meeting: None, delay: 0 }
    }
}

/// Turns of an empty loop that [`Step::delay`] stays below: a few microseconds.
const MOST_DELAY: usize = 2000;

/// All arrivals of one boot, each IOMMU and client once, in `order`. `nodes[i]` is the position of client `i` in the description.
pub fn arrivals(
    description: &MachineDescription,
    nodes: &[u32],
    order: Order,
    random: &mut Random,
) -> Vec<Arrival> {
    let usable = |index: &usize| description.iommus[*index].enabled;
    let iommus = (0..description.iommus.len()).filter(usable);
    let mut listed: Vec<(bool, u32, Arrival)> = iommus
        .map(|index| {
            let iommu = &description.iommus[index];
            (iommu.late, iommu.node.0, Arrival::Iommu(index))
        })
        .collect();
    listed.extend(
        nodes.iter().enumerate().map(|(index, node)| (false, *node, Arrival::Client(index))),
    );
    listed.sort_by_key(|(late, node, _)| (*late, *node));
    let mut arrivals: Vec<_> = listed.into_iter().map(|(_, _, arrival)| arrival).collect();
    match order {
        Order::Listed => {}
        Order::Reverse => arrivals.reverse(),
        Order::Random => random.shuffle(&mut arrivals),
    }
    arrivals
}

/// Adds to `arrivals` what a storm is made of: every eighth client is unbound and bound again, and some arrivals are made to meet: two IOMMUs, or an IOMMU and
/// a client (of `clients_of(iommu)`), or an IOMMU and a rebind; and always two of `mates`, clients of one group.
pub fn storm(
    arrivals: Vec<Arrival>,
    clients_of: impl Fn(usize) -> Vec<usize>,
    mates: &[[usize; 2]],
    random: &mut Random,
) -> Vec<Step> {
    let clients = arrivals.iter().filter(|arrival| matches!(arrival, Arrival::Client(_))).count();
    let mut steps: Vec<Step> = arrivals.into_iter().map(Step::alone).collect();
    for _ in 0..clients.div_ceil(8) {
        let rebind = Step::alone(Arrival::Rebind(random.below(clients)));
        steps.insert(random.below(steps.len() + 1), rebind);
    }
    let mut iommus: Vec<usize> = steps
        .iter()
        .filter_map(|step| match step.arrival {
            Arrival::Iommu(index) if !clients_of(index).is_empty() => Some(index),
            _ => None,
        })
        .collect();
    let kind = random.below(3);
    let mut meetings = Vec::new();
    while let Some(iommu) = iommus.pop() {
        let candidates = clients_of(iommu);
        let client = candidates[random.below(candidates.len())];
        let other = match (kind, iommus.pop()) {
            (0, Some(second)) => Arrival::Iommu(second),
            (1, second) => {
                iommus.extend(second);
                Arrival::Client(client)
            }
            (_, second) => {
                iommus.extend(second);
                Arrival::Rebind(client)
            }
        };
        meetings.push([Arrival::Iommu(iommu), other]);
    }
    if !mates.is_empty() {
        let [one, two] = mates[random.below(mates.len())];
        meetings.push([Arrival::Client(one), Arrival::Client(two)]);
    }
    for (number, [first, second]) in meetings.into_iter().enumerate() {
        meet(&mut steps, first, second, number, random);
    }
    steps
}

/// Puts `second` right behind `first`, both with the number of their meeting. A step that has a meeting already keeps it.
fn meet(
    steps: &mut Vec<Step>,
    first: Arrival,
    second: Arrival,
    number: usize,
    random: &mut Random,
) {
    let free = |steps: &[Step], arrival| {
        steps.iter().position(|step| step.arrival == arrival && step.meeting.is_none())
    };
    if free(steps, first).is_none() {
        return;
    }
    let mut second = match (free(steps, second), second) {
        (Some(at), _) => steps.remove(at),
        (None, Arrival::Rebind(_)) => Step::alone(second),
        (None, _) => return,
    };
    let Some(at) = free(steps, first) else { return steps.push(second) };
    second.meeting = Some(number);
    second.delay = random.below(MOST_DELAY);
    steps[at].meeting = Some(number);
    steps.insert(at + 1, second);
}

/// Every arrival on its own.
pub fn calm(arrivals: Vec<Arrival>) -> Vec<Step> {
    arrivals.into_iter().map(Step::alone).collect()
}
