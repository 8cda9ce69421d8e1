//! States that are rare and matter, by name: each is reached *sometimes*, or the tests that should lead there do not.
//!
//! An assertion says what must always hold; such a name says what must hold now and then: that a follower replaced entries, that a
//! question was answered by presumption, that a torn tail was cut. The name stands in the code where the state is reached, so that
//! it is found by its name. The simulator counts them in every run, and a batch of seeds in which one was never reached fails. They
//! cost nothing without the feature `sometimes`, and no decision may rest on them.

macro_rules! sometimes {
    ($($module:ident { $($name:ident,)* })*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sometimes { $($($name,)*)* }

        impl Sometimes {
            pub const ALL: &[Sometimes] = &[$($(Sometimes::$name,)*)*];

            /// The module that it is a state of.
            pub const fn module(self) -> &'static str {
                match self { $($(Sometimes::$name => stringify!($module),)*)* }
            }
        }
    };
}

sometimes! {
    replica {
        CandidateWaitsForOwnVote,
        CampaignAfterVainOnes,
        VoteBeforeOldPromisesEnd,
        VoteAskedOfLeaseholder,
        VoteAskedOfLeaderWithoutLease,
        AcceptanceUnbound,
        AcceptanceReleased,
        FourthCampaignInARow,
        PreVoteWhileBound,
        PreVoteRefusedForLog,
        PreVoteOfEarlierTerm,
        VoteWhileBound,
        VoteRefusedForTerm,
        VoteRefusedForVote,
        VoteRefusedForLog,
        VoteRepeated,
        VoteOfEarlierTermArrives,
        LossyVoteCounted,
        LossyReplicaElected,
        ElectedWithUncommittedEntries,
        LaterTermInReplyIgnored,
        LeaderStepsDownUncommitted,
        ReleaseRepeated,
        ReleaseOfEarlierTermArrives,
        AcceptanceEndsByRelease,
        AcceptanceEndsWithPromise,
        LeadershipOfferedTooLate,
        LeadershipOffered,
        AppendAfterRelease,
        ReleaseEndsWithLaterLeader,
        AppendToEarlierEpochUnbindsNothing,
        LeaderFollowedWithoutPromise,
        AppendOfEarlierTerm,
        AppendToEarlierEpoch,
        AppendRefusedForRoom,
        LossyReplicaCaughtUp,
        AppendConflictsInTerm,
        AppendBeyondTheLog,
        FullFollowerAskedToEnd,
        AppendRepeated,
        FollowerTruncates,
        FollowerTruncatesDurable,
        EarlierTermOnQuorumNotCommitted,
        CommitTakesEarlierTerms,
        CommitBeforeOwnCopy,
        AppendReplyAfterEpochOrTerm,
        ConflictGoesBackFar,
        ConflictOutdated,
        ReadWaitsForFirstCommit,
        ReadWithoutLease,
        LeaseComesBeforeRound,
        ReadByRound,
        FollowerHasRoomAgain,
        UnfitLeaderWithoutHeir,
        UnfitLeaderHandsOver,
        LeaderRegainsSupport,
        FollowerRestartsMatched,
        FollowerLacksBase,
        InstallKeepsEntries,
        InstallDropsEntries,
        LeaderWithoutQuorumStepsDown,
        TransferAskedInVain,
        StopTriesNextFollower,
        StopFindsNoFollower,
        TransferNeverReady,
        FullFollowerTriedAgain,
        AppendUnanswered,
        EntryNotReadBack,
        FollowerFedFromDisk,
        EntryReadBackInVain,
        FollowersBudgetSpent,
        LeadershipComesBack,
        StallingLeaderHandsOver,
        PreferredLeaderNotReady,
        PreferredLeaderSlow,
        LeadershipRebalanced,
    }
    wal {
        BootFromCheckpoint,
        CopyOutdatedBySnapshot,
        ManifestInLastSegment,
        FreedSegmentLeft,
        SegmentFreed,
        SegmentRecycled,
        ReserveMade,
        ReserveUsed,
        RoomByCompaction,
        TornHeaderMended,
        EntryInCopyReplaces,
        LogHalts,
        UnsealedTailWrittenAgain,
        BatchWaitsForSegment,
        SegmentWaitsForSync,
        SyncSuperseded,
        ReadFails,
        AcknowledgedUnsynced,
        IdleLogSealed,
        UnwrittenRead,
        LossForgivenOnSameMachine,
        LogWithoutHeader,
        SegmentHeaderTorn,
        SpareSegmentFound,
        SegmentOfEarlierDirectory,
        SealedBatchDamaged,
        LaterBatchOutlivesEarlier,
        WitnessedBatchMissing,
        TornTailCut,
        TornTailOfEarlierEpoch,
        TornTailWithoutHeader,
        BatchContinuesNothing,
        BatchBodyTorn,
        SegmentOfSeveralEpochs,
        ReplayedEntryReplaced,
        UnsealedFromHeader,
        SeveralBatchesUnsealed,
        RecoveredLossy,
        WitnessBehindLog,
        NoRoomForSegment,
        RoomForSegmentAgain,
        WitnessSlotTorn,
        NoRoomForWitness,
    }
    store {
        LaterVersionStands,
        TaskWhileHandedOver,
        TaskForEarlierTerm,
        WriteBeforeFirstCommit,
        WriteWaitsForLock,
        RefusalRestsOnUncommitted,
        FullLeaderTurnsAway,
        QuorumWithoutRoom,
        DeleteTakesReserve,
        WaiterEvaluatedWhileHandedOver,
        LeaderBeginsWithPrepared,
        RefusalWaitsForCommit,
        DeposedWithWrites,
        DeposedBeforeAllHaveIt,
        DeposedWithWaiters,
        DeposedBeforeFirstCommit,
        DeposedWhileReadsWait,
        DeposedHoldingLocks,
        DeposedWithPrepareInFlight,
        WaiterTooLate,
        NotAllHaveItInTime,
        PrepareBeforeFirstCommit,
        PrepareRepeatedWhenPrepared,
        VoteForgottenByNewLeader,
        PrepareArrivesAfterOutcome,
        PrepareRepeatedInFlight,
        PrepareRepeatedInQueue,
        HoldWhileHandedOver,
        TransactionDies,
        TransactionWaits,
        ClaimWhileHandedOver,
        ClaimTooLate,
        TransactionLacksValue,
        HomesLocksGivenUp,
        DecisionWhileHandedOver,
        AbortOvertakesPrepare,
        AbortFindsWaiter,
        CommitOfWhatIsNotPrepared,
        OutcomeToldAgain,
        AbortOfWhatNeverCame,
        OutcomeToldWhileResolving,
        HomeStillUndecided,
        DoubtEndsByAbort,
        DoubtEndsByCommit,
        InquiryAnsweredTooLate,
        PreparedAfterItsAbort,
        WriteTooLateInItsTurn,
        WaiterReadsAgain,
        WaitersValueUnreadable,
        ScanEndsAtPrepared,
        ReadOfManyWaitedTooOften,
        ReadWaitsForPrepared,
        ReadWaitsForPreparedAgain,
        ReadWaitedTooLong,
        ReadItemsHaveChanged,
        PartOfReadUnreadable,
    }
    txn {
        TokenAnswered,
        TokenInUse,
        HeldAfterGivenUp,
        RefusalKeptForToken,
        CommitToldAgain,
        VoteAfterEnd,
        InquiryOfOpen,
        InquiryOfCommitted,
        InquiryAnsweredByPresumption,
        NotDecidedWhileHandedOver,
        CommitsTakenOver,
        DeposedUndecided,
        DeposedWhileDeciding,
        EndsHeldBackByTransfer,
        TransactionTooLate,
    }
    gateway {
        HintOutdated,
        QuestionForgotten,
        NodeEndsWithCalls,
        NodeEndsWithWriteInDoubt,
        CallNeverBegun,
        CallDiesOfConflict,
        WriteInDoubtAtDeadline,
        WriteInDoubtBehindCutLink,
        ForwardRefusedAsRepeat,
        RepeatedReadAnsweredAnew,
        ForwardToEarlierEpoch,
        ForwardToStoppingNode,
        ForwardReplyToEarlierEpoch,
        ForwardReplyUnexpected,
        WriteAnsweredByLaterEpoch,
        WriteInDoubtAtRestart,
        ReadAskedAgainAfterRestart,
        ReadTakenBackFromCutLink,
        WriteBehindCutLink,
        FarewellGivesCallBack,
        ReadOfManyQueued,
        ReadOfManyByTransaction,
        ReadOfManyMeasuredAgain,
        PartAskedAgainForRoom,
        TransactionBehindRival,
        RivalWoken,
        OtherReplicasAskedWhichLeads,
        CallSentAsCopy,
        CallSentAgainToAnother,
        HintNotBelieved,
        HintOfLaterTermStands,
        ScanListsAgain,
        ScanReadsWhole,
    }
    liveness {
        PeersDiskRecovers,
        PromiseLapsedUnnoticed,
        SupportGivenAnew,
        PromiseToEarlierEpoch,
        EarlierPromiseArrives,
        PromiseArrivesTooLate,
        PeerRestartsSupported,
        PeerRestartsSupporting,
        PeerSilent,
        NodeBecomesUnfit,
        NodeIsFitAgain,
        SupportWithdrawn,
        SupportLost,
    }
    ring {
        OldCopyRefused,
        FollowerOfCopyRefused,
        OtherDirectoryRefused,
        EnvelopeOfEarlierEpoch,
        EnvelopeOfOldCopy,
        EnvelopeBeforeFirstHeartbeat,
        LateMemberToldOfFormation,
        MemberRestartsBeforeFormation,
        FormationToldAgain,
    }
    node {
        CheckpointCompleted,
        CheckpointHeldBack,
        CheckpointWaitsForRoom,
        CheckpointLeavesMemberBehind,
        CopyOfReplacedState,
        CompactionBegun,
        ValuesMoved,
        VictimNotEmptied,
        CondemnedSegmentRead,
        PreparedKeepsSegment,
        BlockUnreadable,
        CompactionWhileFull,
        NoRoomToWin,
        NothingToWin,
        CheckpointEndsOnFullDisk,
        SnapshotBegun,
        SnapshotSent,
        SnapshotGivenUp,
        SnapshotEndsWithLeadership,
        SnapshotOfRottenState,
        SnapshotGoesBack,
        SnapshotOfOtherTerm,
        SnapshotOutdated,
        SnapshotWaitsForRoom,
        SnapshotReplaced,
        SnapshotPieceRepeated,
        SnapshotPieceLost,
        SnapshotOfReturnedMember,
        SnapshotAnswerLate,
        SnapshotInstalled,
        BootWithPartOfState,
        UnchangedGroupNotCopied,
        UnchangedLeafNotCopied,
        WritesWhileCopied,
        MessageWaitsForEpoch,
        VoteReplacesWaitingVote,
        VoteWaitsAlready,
        AcknowledgementWaits,
        GroupGetsTurnToSend,
        LossyNodeCaughtUp,
        StopLosesPatience,
        StopWhileLossy,
        RelayedOriginNotAdmitted,
        RelayedMessageArrives,
        MessagePassedOn,
        NoWayToPassOn,
        RefusedNodeHearsMessage,
        SealingNodeHearsGroup,
        NodeTooCrowdedToWrite,
        StoppingNodeElected,
        AnswerToRestartedGateway,
    }
}

impl Sometimes {
    /// The state is reached now.
    #[inline(always)]
    pub fn reached(self) {
        #[cfg(feature = "sometimes")]
        REACHED.with(|counts| counts[self as usize].set(counts[self as usize].get() + 1));
    }

    /// The state is reached now if this holds.
    #[inline(always)]
    pub fn when(self, holds: bool) {
        if holds {
            self.reached();
        }
    }
}

#[cfg(feature = "sometimes")]
std::thread_local! {
    static REACHED: [core::cell::Cell<u64>; Sometimes::ALL.len()] =
        const { [const { core::cell::Cell::new(0) }; Sometimes::ALL.len()] };
}

/// How often each state was reached on this thread since this was last asked; those that were.
#[cfg(feature = "sometimes")]
pub fn take_reached() -> Vec<(Sometimes, u64)> {
    let taken = REACHED.with(|counts| Sometimes::ALL.iter().map(|state| (*state, counts[*state as usize].take())).collect());
    let mut taken: Vec<(Sometimes, u64)> = taken;
    taken.retain(|(_, times)| *times > 0);
    taken
}
